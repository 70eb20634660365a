"""What several networks share: layers that pass over memory less often than PyTorch's own, and Keras's start.

A narrow network's step on a CPU waits for memory: each pass over a feature map that no cache holds counts.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

DROPPED = 13107  # of 65,536: dropout 0.2 to five digits
SCALE = 1.25  # what keeps the mean
SCALE_BITS = 0x3FA0  # the same as bfloat16, whose bits are the first half of float32's


class ReLUDropout(nn.Module):
    """ReLU, and dropout 0.2 while training, both in the memory of x, which nobody may need any more.

    x: float, dense in memory. Items are set to 0 at probability DROPPED / 65536, the rest scaled to keep the mean.
    Masks are cut from 64-bit random words, four items each: nn.Dropout's alone is half of a step on a CPU. Anywhere
    but on a CPU both are PyTorch's own.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return F.relu(x, inplace=True)
        if x.device.type != "cpu":
            return F.dropout(F.relu(x), 1 - 1 / SCALE)
        dropped: Tensor = _ReLUDropout.apply(x)
        return dropped


class _ReLUDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        x.relu_().mul_(_mask(x))
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # What was dropped is 0 now, as what ReLU cut off: the mask itself need not be kept.
        kept: Tensor = torch.ops.aten.threshold_backward(gradient, *ctx.saved_tensors, 0)
        return kept.mul_(SCALE)


def _mask(x: Tensor) -> Tensor:
    """0 or SCALE for each item of x, whose layout it has."""
    generator = np.random.Generator(np.random.SFC64(int(torch.randint(2**63 - 1, ()))))
    words = torch.from_numpy(generator.integers(2**64, size=(x.numel() + 3) // 4, dtype=np.uint64))
    kept = words.view(torch.int16)[: x.numel()].ge_(DROPPED - 2**15)  # 1 or 0
    # Made as integers: bools are ten times slower.
    return kept.mul_(SCALE_BITS).view(torch.bfloat16).to(x.dtype).as_strided(x.shape, x.stride())


class AveragePool(nn.Module):
    """The mean of windows of 2 x 2: their halves along the width, then those halves' along the height.

    forward: (N, C, H, W) -> (N, C, H', W'), channels last in memory. padding: `same`, at the bottom and on the right,
    and no part of a mean, or with stride 2 `valid`. PyTorch's own loop over windows takes four times as long.
    """

    def __init__(self, stride: int, padding: str) -> None:
        super().__init__()
        self.stride, self.same = stride, padding == "same"
        assert self.same or stride == 2

    def forward(self, x: Tensor) -> Tensor:
        for dimension in (3, 2):
            x = _Halves.apply(x, dimension, self.stride, self.same)
        return x


class _Halves(torch.autograd.Function):
    """(x_i + x_i+1) / 2 along a dimension, i = 0, stride, 2 stride ...; x_i itself where x_i+1 is padding."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dimension: int, stride: int, same: bool) -> Tensor:
        items = x.shape[dimension]
        pairs = items - 1 if stride == 1 else items // 2
        ctx.how = dimension, stride, items, pairs, same
        y = _empty(x, dimension, -(-items // stride) if same else pairs)
        first, second = (_cut(x, dimension, at, at + pairs * stride, stride) for at in (0, 1))
        torch.lerp(first, second, 0.5, out=_cut(y, dimension, 0, pairs))
        if same:  # the last one, whose neighbour may be padding
            _cut(y, dimension, pairs).copy_(_cut(x, dimension, pairs * stride))
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        dimension, stride, items, pairs, same = ctx.how
        x = _empty(gradient, dimension, items)
        if stride == 1:  # an item is the second of the window before, and the first of its own
            torch.lerp(_cut(gradient, dimension, 0, pairs), _cut(gradient, dimension, 1), 0.5,
                       out=_cut(x, dimension, 1))
            torch.mul(_cut(gradient, dimension, 0, 1), 0.5, out=_cut(x, dimension, 0, 1))
            _cut(x, dimension, pairs).add_(_cut(gradient, dimension, pairs), alpha=0.5)
        else:
            for at in (0, 1):
                torch.mul(_cut(gradient, dimension, 0, pairs), 0.5, out=_cut(x, dimension, at, 2 * pairs, 2))
            rest = _cut(x, dimension, 2 * pairs)
            rest.copy_(_cut(gradient, dimension, pairs)) if same else rest.zero_()
        return x, None, None, None


def _empty(like: Tensor, dimension: int, items: int) -> Tensor:
    shape = [items if at == dimension else size for at, size in enumerate(like.shape)]
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


def _cut(x: Tensor, dimension: int, start: int, end: int | None = None, stride: int = 1) -> Tensor:
    return x[(slice(None),) * dimension + (slice(start, end, stride),)]


def keras_start(module: nn.Module, generator: torch.Generator | None) -> None:
    """Of a convolution or a linear layer: weights Glorot-uniform, drawn from `generator`, and biases at zero."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.xavier_uniform_(module.weight, generator=generator)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
