"""The plain side: what one writes first in PyTorch. Its own layers and Adam, contiguous float32, batches first."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdlib.learning.engine import Loss
from kdlib.learning.layers import AveragePool, ReLUDropout
from kdlib.learning.models import penalty, start
from kdlib.learning.networks.cnn import CNN
from kdlib.learning.networks.lstm import LSTM
from kdlib.settings.experiment import Experiment


class BatchFirst(nn.Module):
    """An LSTM of the zoo as one writes it first: (N, window) all the way, both of PyTorch's biases trained."""

    def __init__(self, built: LSTM) -> None:
        super().__init__()
        own = built.lstm
        self.embedding, self.linear = built.embedding, built.linear
        self.lstm = nn.LSTM(own.input_size, own.hidden_size, own.num_layers, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.lstm(self.embedding(x))[0][:, -1])
        return logits


Plain = CNN | BatchFirst


def model(experiment: Experiment, architecture: str) -> Plain:
    """The architecture of PyTorch's own layers, contiguous in memory; of an LSTM, see BatchFirst."""
    built = start(experiment, architecture)
    if isinstance(built, LSTM):
        return BatchFirst(built).to(experiment.device)
    assert isinstance(built, CNN)  # the other zoo
    built.blocks = nn.Sequential(*(own for layer in built.blocks for own in _own(layer)))
    built.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # torch's stubs lack this way to call it
    return built


def _own(layer: nn.Module) -> list[nn.Module]:
    """What of PyTorch's stands for a layer of kdlib's; any other layer itself."""
    if isinstance(layer, ReLUDropout):
        return [nn.ReLU(), nn.Dropout(0.2)]
    if not isinstance(layer, AveragePool):
        return [layer]
    if layer.stride == 2:
        return [nn.AvgPool2d(2, ceil_mode=layer.same, count_include_pad=False)]
    # Repeating the edge gives, for a window of two, the mean that leaves padding out.
    return [nn.ReplicationPad2d((0, 1, 0, 1)), nn.AvgPool2d(2, 1)]


def pictures(x: Tensor) -> Tensor:
    """uint8 (N, H, W) -> float32 (N, 1, H, W) in 0-1, contiguous; of texts, (N, window) -> int64."""
    return x.long() if x.ndim == 2 else x.unsqueeze(1).float() / 255


def train(experiment: Experiment, built: Plain, x: Tensor, target: Tensor | Callable[[Tensor], Tensor], size: int,
          batches: int, loss: Loss = F.cross_entropy) -> None:
    """`batches` steps on batches of `size`, in the order of x; target: rows of it, or a function of the images."""
    optimizer = torch.optim.Adam(built.parameters(), lr=experiment.learning_rate, eps=1e-7)
    built.train()
    for number in range(batches):
        rows = torch.arange(number * size, (number + 1) * size) % len(x)
        seen = pictures(x[rows]).to(experiment.device)
        aim = target(seen) if callable(target) else target[rows].to(experiment.device)
        optimizer.zero_grad()
        (loss(built(seen), aim) + penalty(built)).backward()
        optimizer.step()


@torch.no_grad()
def predict(built: Plain, x: Tensor, size: int) -> Tensor:
    """Logits of stored items in batches of `size`."""
    built.eval()
    where = next(built.parameters()).device
    return torch.cat([built(pictures(part).to(where)) for part in x.split(size)])
