"""A small ResNet of two residual blocks (He et al., 2016), for images of any size and any number of channels."""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdlib import Task

FILTERS = 32  # at width 1


class Block(nn.Module):
    """Two convolutions with batch norm beside an identity. forward: float32 (N, C, H, W) -> the same shape."""

    def __init__(self, filters: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(filters, filters, 3, padding=1, bias=False), nn.BatchNorm2d(filters), nn.ReLU(),
            nn.Conv2d(filters, filters, 3, padding=1, bias=False), nn.BatchNorm2d(filters))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.layers(x))


def guestnet(task: Task, classes: int, width: float, generator: torch.Generator) -> nn.Module:
    """A convolution that halves the image, two blocks, the mean over the image, a linear layer."""
    filters = max(4, round(FILTERS * width))
    model = nn.Sequential(
        nn.Conv2d(task.image[0], filters, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(filters), nn.ReLU(),
        Block(filters), Block(filters), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(filters, classes))
    model.apply(functools.partial(begin, generator=generator))
    return model


def begin(module: nn.Module, generator: torch.Generator) -> None:
    """Weights He-normal, drawn from `generator`, and biases at zero."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, generator=generator)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
