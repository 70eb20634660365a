"""The paper's CNNs of two, three and four layers (PAPER: Models), with Keras's conventions in PyTorch.

Those conventions: padding 'same' puts the odd pixel after the image, the average pool leaves padding out of its mean,
batch norm has eps 1e-3, weights start Glorot-uniform and biases at zero.
"""

import functools
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kdlib.errors import KdlibError
from kdlib.learning.layers import AveragePool, ReLUDropout, keras_start
from kdlib.settings.architectures import Network
from kdlib.settings.task import Task

PENALTY = 1e-3


class Pool(NamedTuple):
    """An average pool of 2 x 2."""

    stride: int
    padding: str


class Block(NamedTuple):
    """A convolution with batch norm, ReLU and dropout, then perhaps a pool."""

    kernel: int
    stride: int
    padding: str
    pool: Pool | None = None


BLOCKS: dict[str, tuple[Block, ...]] = {
    "cnn2": (
        Block(3, 1, "same", Pool(1, "same")),
        Block(3, 2, "valid"),
    ),
    "cnn3": (
        Block(3, 1, "same", Pool(1, "same")),
        Block(2, 2, "valid", Pool(2, "valid")),
        Block(3, 2, "valid"),
    ),
    "cnn4": (
        Block(3, 1, "same", Pool(1, "same")),
        Block(2, 2, "same", Pool(2, "same")),
        Block(2, 2, "same", Pool(2, "same")),
        Block(3, 2, "same"),
    ),
}


class CNN(nn.Module):
    """Blocks, then a linear layer without bias.

    forward: float32 (N, C, H, W) in 0-1 -> logits float32 (N, classes).
    """

    def __init__(self, blocks: list[nn.Module], features: int, classes: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)
        self.linear = nn.Linear(features, classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        # Features in the order (height, width, channels), as in Keras: channels-last maps flatten without a copy.
        logits: Tensor = self.linear(self.blocks(x).permute(0, 2, 3, 1).flatten(1))
        return logits

    def penalty(self) -> Tensor:
        """1e-3 x the sum of the last layer's squared weights, a part of every loss (PAPER: Models)."""
        return PENALTY * self.linear.weight.square().sum()


def cnn(blocks: tuple[Block, ...], task: Task, classes: int, width: float, generator: torch.Generator | None,
        *filters: int) -> CNN:
    """A CNN of these blocks with so many filters each, times `width`; weights come from `generator`, layer by layer.

    Raises KdlibError where the task's images are too small for the blocks.
    """
    channels, *size = task.image
    layers: list[nn.Module] = []
    for block, number in zip(blocks, filters, strict=True):
        out = max(1, round(number * width))
        pad, size = _window(task.image, size, block.kernel, block.stride, block.padding)
        layers += [*([nn.ZeroPad2d(pad)] if any(pad) else []), nn.Conv2d(channels, out, block.kernel, block.stride),
                   nn.BatchNorm2d(out, eps=1e-3), ReLUDropout()]
        if block.pool:
            _, size = _window(task.image, size, 2, *block.pool)
            layers.append(AveragePool(*block.pool))
        channels = out
    model = CNN(layers, channels * size[0] * size[1], classes)
    model.apply(functools.partial(keras_start, generator=generator))
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack this way to call it
    return model


NETWORKS = {name: Network(functools.partial(cnn, blocks), "image", len(blocks)) for name, blocks in BLOCKS.items()}


def _window(image: tuple[int, int, int], size: list[int], kernel: int, stride: int,
            padding: str) -> tuple[tuple[int, int, int, int], list[int]]:
    """Padding (left, right, top, bottom) and the output's (height, width), by TensorFlow's rule."""
    if padding == "valid":
        if min(size) < kernel:
            raise KdlibError(f"images of {image[1]} x {image[2]} are too small: a {kernel} x {kernel} window meets "
                             f"{size[0]} x {size[1]}; allowed: larger images, or fewer layers")
        return (0, 0, 0, 0), [(n - kernel) // stride + 1 for n in size]
    out = [-(-n // stride) for n in size]
    top, left = (max((o - 1) * stride + kernel - n, 0) for o, n in zip(out, size, strict=True))
    return (left // 2, left - left // 2, top // 2, top - top // 2), out

