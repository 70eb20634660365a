"""The paper's LSTMs of one and two layers (PAPER: Models), with Keras's start in PyTorch.

An embedding starts uniform, recurrent weights orthogonal, forget gates at 1, and there is one bias a gate.
"""

import functools

import torch
from torch import Tensor, nn

from kdlib.learning.layers import keras_start
from kdlib.settings.architectures import Network
from kdlib.settings.task import Task, TextTask

EMBEDDING = 8


class LSTM(nn.Module):
    """An embedding of tokens, LSTM layers, and a linear layer on the last state.

    forward: int64 (N, tokens) -> logits float32 (N, classes).
    """

    def __init__(self, vocabulary: int, units: int, layers: int, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, EMBEDDING)
        self.lstm = nn.LSTM(EMBEDDING, units, layers)
        self.linear = nn.Linear(units, classes)
        for layer in range(layers):  # PyTorch adds a second bias to each gate, which stays at zero
            getattr(self.lstm, f"bias_hh_l{layer}").requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.lstm(self.embedding(x.t()))  # one token of all the texts after the other
        logits: Tensor = self.linear(states[-1])
        return logits


def lstm(layers: int, task: Task | TextTask, classes: int, width: float, generator: torch.Generator | None,
         units: int) -> LSTM:
    """An LSTM of so many layers of `units` units times `width`; weights come from `generator`, layer by layer."""
    assert task.vocabulary is not None
    model = LSTM(task.vocabulary, max(1, round(units * width)), layers, classes)
    nn.init.uniform_(model.embedding.weight, -0.05, 0.05, generator=generator)
    with torch.no_grad():
        for name, weight in model.lstm.named_parameters():
            if "weight" in name:
                start = nn.init.orthogonal_ if "_hh_" in name else nn.init.xavier_uniform_
                start(weight, generator=generator)
            else:
                weight.zero_()
                if "_ih_" in name:
                    weight.chunk(4)[1].fill_(1.0)  # gates in the order input, forget, cell, output
    keras_start(model.linear, generator)
    return model


NETWORKS = {f"lstm{layers}": Network(functools.partial(lstm, layers), "text", 1) for layers in (1, 2)}
