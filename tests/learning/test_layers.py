"""The dropout that all networks share: its rate, its gradient, its independence."""

import math

import pytest
import torch

from kdlib.learning.layers import Dropout

CONTIGUOUS, LAST = torch.contiguous_format, torch.channels_last


@pytest.mark.parametrize(("shape", "memory"), [
    ((8, 4, 10, 10), CONTIGUOUS), ((8, 4, 10, 10), LAST), ((3, 3, 5, 5), CONTIGUOUS), ((3, 3, 5, 5), LAST),
    ((7, 13), CONTIGUOUS), ((1, 1, 1, 1), LAST),
])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_dropout_drops_or_scales_and_so_does_its_gradient(dtype, shape, memory):
    torch.manual_seed(0)
    x = (torch.rand(shape) + 1).to(dtype).to(memory_format=memory).requires_grad_()
    y = Dropout()(x)
    y.sum().backward()
    kept = y.detach() != 0
    assert y.dtype == x.grad.dtype == dtype
    torch.testing.assert_close(y.detach(), torch.where(kept, x.detach() * 1.25, 0.0), rtol=1e-5, atol=0)
    torch.testing.assert_close(x.grad, torch.where(kept, 1.25, 0.0).to(dtype), rtol=1e-5, atol=0)
    assert y.is_contiguous(memory_format=memory)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_dropout_has_its_rate_its_mean_and_no_correlation(dtype):
    torch.manual_seed(0)
    n = 2_000_000
    y = Dropout()(torch.ones(4, n // 4, dtype=dtype))
    dropped = (y == 0).double().flatten()
    sigma = math.sqrt(0.2 * 0.8 / n)
    assert abs(float(dropped.mean()) - 0.2) < 4 * sigma
    assert abs(float(y.double().mean()) - 1) < 4 * 1.25 * sigma
    centred = dropped - dropped.mean()
    for distance in (1, 2, 3, 4, 8, n // 4):  # inside a 64-bit word, from word to word, from row to row
        correlation = (centred[:-distance] * centred[distance:]).mean() / centred.square().mean()
        assert abs(float(correlation)) < 4 / math.sqrt(n), distance


def test_dropout_draws_anew_and_by_the_seed():
    layer, x = Dropout(), torch.ones(64, 64)
    torch.manual_seed(1)
    first, second = layer(x), layer(x)
    torch.manual_seed(1)
    assert torch.equal(layer(x), first) and not torch.equal(first, second)


def test_dropout_is_nothing_in_evaluation():
    x = torch.rand(5, 5)
    assert Dropout().eval()(x) is x
