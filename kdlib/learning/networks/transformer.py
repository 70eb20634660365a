"""A small transformer for texts (Vaswani et al., 2017): two layers, four heads, the answer at the last token."""

import torch
from torch import Tensor, nn

from kdlib.settings.architectures import Network
from kdlib.settings.task import Task, TextTask

LAYERS, HEADS = 2, 4


class Transformer(nn.Module):
    """Tokens and their places embedded, encoder layers, a linear layer. forward: int64 (N, tokens) -> (N, classes)."""

    def __init__(self, vocabulary: int, tokens: int, units: int, classes: int) -> None:
        super().__init__()
        self.embedding, self.places = nn.Embedding(vocabulary, units), nn.Embedding(tokens, units)
        layer = nn.TransformerEncoderLayer(units, HEADS, 4 * units, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.linear = nn.Linear(units, classes)

    def forward(self, x: Tensor) -> Tensor:
        embedded = self.embedding(x) + self.places(torch.arange(x.shape[1], device=x.device))
        logits: Tensor = self.linear(self.encoder(embedded)[:, -1])
        return logits


def transformer(task: Task | TextTask, classes: int, width: float, generator: torch.Generator,
                units: int) -> Transformer:
    """`units` times `width`, a multiple of the heads. PyTorch's own start draws from its global generator."""
    assert task.vocabulary is not None
    return Transformer(task.vocabulary, task.shape[0], HEADS * max(1, round(units * width / HEADS)), classes)


NETWORKS = {"transformer2": Network(transformer, "text", 1)}
