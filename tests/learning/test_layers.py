"""The layers that all CNNs share: dropout's rate, gradient and independence, and the pool against PyTorch's."""

import math

import pytest
import torch
import torch.nn.functional as F

from kdlib.learning.layers import AveragePool, ReLUDropout

CONTIGUOUS, LAST = torch.contiguous_format, torch.channels_last


@pytest.mark.parametrize(("shape", "memory"), [
    ((8, 4, 10, 10), CONTIGUOUS), ((8, 4, 10, 10), LAST), ((3, 3, 5, 5), CONTIGUOUS), ((3, 3, 5, 5), LAST),
    ((7, 13), CONTIGUOUS), ((1, 1, 1, 1), LAST),
])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_dropout_drops_or_scales_what_is_positive_and_so_does_its_gradient(dtype, shape, memory):
    torch.manual_seed(0)
    x = (torch.rand(shape) - 0.2).to(dtype).to(memory_format=memory).requires_grad_()
    gradient = torch.randn(shape).to(dtype).to(memory_format=memory)
    y = ReLUDropout()(x + 0)  # whose memory it may take
    y.backward(gradient)
    kept = y.detach() != 0
    assert y.dtype == x.grad.dtype == dtype and not (kept & (x <= 0)).any()
    torch.testing.assert_close(y.detach(), torch.where(kept, x.detach() * 1.25, 0.0), rtol=0, atol=0)
    torch.testing.assert_close(x.grad, torch.where(kept, 1.25 * gradient, 0.0), rtol=0, atol=0)
    assert y.is_contiguous(memory_format=memory)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_dropout_has_its_rate_its_mean_and_no_correlation(dtype):
    torch.manual_seed(0)
    n = 2_000_000
    y = ReLUDropout()(torch.ones(4, n // 4, dtype=dtype))
    dropped = (y == 0).double().flatten()
    sigma = math.sqrt(0.2 * 0.8 / n)
    assert abs(float(dropped.mean()) - 0.2) < 4 * sigma
    assert abs(float(y.double().mean()) - 1) < 4 * 1.25 * sigma
    centred = dropped - dropped.mean()
    for distance in (1, 2, 3, 4, 8, n // 4):  # inside a 64-bit word, from word to word, from row to row
        correlation = (centred[:-distance] * centred[distance:]).mean() / centred.square().mean()
        assert abs(float(correlation)) < 4 / math.sqrt(n), distance


def test_dropout_draws_anew_and_by_the_seed():
    layer, x = ReLUDropout(), torch.ones(64, 64)
    torch.manual_seed(1)
    first, second = layer(x.clone()), layer(x.clone())
    torch.manual_seed(1)
    assert torch.equal(layer(x.clone()), first) and not torch.equal(first, second)


def test_in_evaluation_nothing_is_dropped():
    x = torch.randn(5, 5)
    assert torch.equal(ReLUDropout().eval()(x.clone()), x.clamp(min=0))


def by_windows(x, stride, padding):
    """PyTorch's pool; repeating the edge gives, for a window of two, the mean that leaves padding out."""
    out = [-(-n // stride) if padding == "same" else n // stride for n in x.shape[2:]]
    down, right = (max((o - 1) * stride + 2 - n, 0) for o, n in zip(out, x.shape[2:], strict=True))
    return F.avg_pool2d(F.pad(x, (0, right, 0, down), mode="replicate"), 2, stride)


@pytest.mark.parametrize(("stride", "padding"), [(1, "same"), (2, "same"), (2, "valid")])
@pytest.mark.parametrize("size", [(1, 1), (1, 4), (2, 3), (3, 2), (5, 5), (6, 7)])
def test_a_pool_and_its_gradient_are_pytorchs(stride, padding, size):
    if padding == "valid" and min(size) < 2:
        pytest.skip("no window fits")
    torch.manual_seed(0)
    x = torch.randn(2, 3, *size, dtype=torch.float64).to(memory_format=LAST).requires_grad_()
    y, expected = AveragePool(stride, padding)(x), by_windows(x, stride, padding)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-15)
    assert y.is_contiguous(memory_format=LAST)
    for memory in (LAST, CONTIGUOUS):
        gradient = torch.randn_like(expected).to(memory_format=memory)
        found, wanted = (torch.autograd.grad(out, x, gradient, retain_graph=True)[0] for out in (y, expected))
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-15)
