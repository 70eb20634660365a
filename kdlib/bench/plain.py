"""The plain side: what one writes first in PyTorch. nn.Dropout, torch's Adam, contiguous float32."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdlib import client
from kdlib.experiment import Experiment
from kdlib.models import CNN, Dropout


def model(experiment: Experiment, architecture: str) -> CNN:
    """The architecture with nn.Dropout, contiguous in memory."""
    built = client.start(experiment, architecture)
    for index, layer in enumerate(built.blocks):
        if isinstance(layer, Dropout):
            built.blocks[index] = nn.Dropout(0.2)
    return built.to(memory_format=torch.contiguous_format)


def pictures(x: Tensor) -> Tensor:
    """uint8 (N, H, W) -> float32 (N, 1, H, W) in 0-1, contiguous."""
    return x.unsqueeze(1).float() / 255


def train(experiment: Experiment, built: CNN, x: Tensor, target: Tensor | Callable[[Tensor], Tensor], size: int,
          batches: int, loss=F.cross_entropy) -> None:
    """`batches` steps on batches of `size`, in the order of x; target: rows of it, or a function of the images."""
    optimiser = torch.optim.Adam(built.parameters(), lr=experiment.learning_rate, eps=1e-7)
    built.train()
    for number in range(batches):
        rows = torch.arange(number * size, (number + 1) * size) % len(x)
        seen = pictures(x[rows])
        aim = target(seen) if callable(target) else target[rows]
        optimiser.zero_grad()
        (loss(built(seen), aim) + built.penalty()).backward()
        optimiser.step()


@torch.no_grad()
def predict(built: CNN, x: Tensor, size: int) -> Tensor:
    """Logits of uint8 images in batches of `size`."""
    built.eval()
    return torch.cat([built(pictures(part)) for part in x.split(size)])
