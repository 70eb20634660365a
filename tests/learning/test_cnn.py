"""The CNNs: sizes, starts and layers by hand (PAPER: Models)."""

import math

import numpy as np
import pytest
import torch

from kdlib.errors import KdlibError
from kdlib.learning.layers import AveragePool, ReLUDropout
from kdlib.settings.architectures import ZOO
from made import net, task

GREY, COLOUR = task((28, 28)), task((32, 32, 3))

# By hand from PAPER's table: the side of the square after each convolution and pool.
# cnn2: same 1, pool same 1, valid 3/2.  cnn3: the first two, valid 2/2, pool 2/2, valid 3/2.
# cnn4: the first two, then convolution 2/2, pool 2/2 twice, and 3/2, all same.
SIDES = {
    ("cnn2", 28): [28, 28, 13], ("cnn2", 32): [32, 32, 15],
    ("cnn3", 28): [28, 28, 14, 7, 3], ("cnn3", 32): [32, 32, 16, 8, 3],
    ("cnn4", 28): [28, 28, 14, 7, 4, 2, 1], ("cnn4", 32): [32, 32, 16, 8, 4, 2, 1],
}
KERNELS = {"cnn2": (3, 3), "cnn3": (3, 2, 3), "cnn4": (3, 2, 2, 3)}


@pytest.mark.parametrize("image", [GREY, COLOUR], ids=["grey", "colour"])
@pytest.mark.parametrize("architecture", ZOO)
def test_sizes_are_those_worked_out_by_hand(architecture, image):
    model, sides = net(architecture, image, 10, width=0.0625).eval(), []
    for layer in model.blocks:
        if isinstance(layer, torch.nn.Conv2d | AveragePool):
            layer.register_forward_hook(lambda _, __, output: sides.append(output.shape[2:]))
    assert model(torch.zeros(2, *image.image)).shape == (2, 10)
    assert sides == [(side, side) for side in SIDES[architecture[:4], image.shape[0]]]


@pytest.mark.parametrize("image", [GREY, COLOUR], ids=["grey", "colour"])
@pytest.mark.parametrize("architecture", ZOO)
def test_parameters_are_those_counted_by_hand(architecture, image):
    kind, *filters = architecture.split("-")
    filters = list(map(int, filters))
    # A kernel and a bias a filter, then batch norm's gamma and beta; the linear layer has no bias.
    expected = sum(kernel**2 * before * after + after + 2 * after for kernel, before, after in
                   zip(KERNELS[kind], [image.image[0], *filters], filters, strict=False))
    expected += SIDES[kind, image.shape[0]][-1] ** 2 * filters[-1] * 36
    model = net(architecture, image, 36)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected
    assert model.linear.bias is None


def test_the_two_layer_model_counted_digit_by_digit():
    # 3*3*1*128 + 128, 2*128;  3*3*128*256 + 256, 2*256;  13*13*256*10.
    assert sum(p.numel() for p in net("cnn2-128-256", GREY, 10).parameters()) == 1280 + 256 + 295168 + 512 + 432640


@pytest.mark.parametrize(("width", "filters"), [(1.0, [64, 128, 256]), (0.125, [8, 16, 32]), (0.001, [1, 1, 1])])
def test_width_scales_every_layer(width, filters):
    model = net("cnn3-64-128-256", GREY, 10, width=width)
    assert [layer.out_channels for layer in model.blocks if isinstance(layer, torch.nn.Conv2d)] == filters


@pytest.mark.parametrize(("architecture", "side", "window"), [
    ("cnn2-8-8", 2, "3 x 3 window meets 2 x 2"),
    ("cnn3-8-8-8", 1, "2 x 2 window meets 1 x 1"),
    ("cnn3-8-8-8", 11, "3 x 3 window meets 2 x 2"),
])
def test_an_image_too_small_is_refused(architecture, side, window):
    says = f"images of {side} x {side} are too small: a {window}; allowed: larger images, or fewer layers"
    with pytest.raises(KdlibError, match=says) as error:
        net(architecture, task((side, side)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("architecture", "side"), [("cnn2-8-8", 3), ("cnn3-8-8-8", 12), ("cnn4-8-8-8-8", 1)])
def test_the_smallest_image_is_taken(architecture, side):
    assert net(architecture, task((side, side)), 10).eval()(torch.zeros(1, 1, side, side)).shape == (1, 10)


def windows(x, kernel, stride, average):
    """TensorFlow's `same` on (channels, n, n): the odd pixel of padding comes last; NaN outside the image."""
    n = x.shape[1]
    out = math.ceil(n / stride)
    total = max((out - 1) * stride + kernel - n, 0)
    around = (total // 2, total - total // 2)
    padded = np.pad(x, ((0, 0), around, around), constant_values=np.nan if average else 0)
    return np.stack([[padded[:, i * stride : i * stride + kernel, j * stride : j * stride + kernel] for j in range(out)]
                     for i in range(out)])


@pytest.mark.parametrize("side", [6, 7, 8, 9])
def test_same_padding_and_pools_are_those_of_keras(side):
    """The four-layer model without batch norm's and ReLU's work, layer for layer, against NumPy."""
    model = net("cnn4-3-4-2-5", task((side, side, 2)), 10).eval()
    x = np.random.default_rng(side).normal(size=(2, side, side))
    seen, expected = [], []
    for layer in model.blocks:
        if isinstance(layer, torch.nn.BatchNorm2d | ReLUDropout):
            layer.forward = lambda given: given
        if isinstance(layer, torch.nn.Conv2d | AveragePool):
            layer.register_forward_hook(lambda _, __, output: seen.append(output[0].detach().numpy()))
    kernels = iter([(3, 1), (2, 2), (2, 2), (3, 2)])
    pools = iter([(2, 1), (2, 2), (2, 2)])
    model(torch.from_numpy(x[None]).float())
    for layer in model.blocks:
        if isinstance(layer, torch.nn.Conv2d):
            cut = windows(x, *next(kernels), average=False)
            bias = layer.bias.detach().numpy()[:, None, None]
            x = np.einsum("ijcab,ocab->oij", cut, layer.weight.detach().numpy()) + bias
            expected.append(x)
        elif isinstance(layer, AveragePool):
            x = np.nanmean(windows(x, *next(pools), average=True), axis=(3, 4)).transpose(2, 0, 1)
            expected.append(x)
    assert len(seen) == len(expected) == 7
    for found, wanted in zip(seen, expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_a_block_is_convolution_batch_norm_relu_dropout_pool():
    names = [type(layer).__name__ for layer in net("cnn3-8-8-8", GREY, 10).blocks]
    order = [name for name in names if "Pad" not in name]
    block = ["Conv2d", "BatchNorm2d", "ReLUDropout"]
    assert order == [*block, "AveragePool", *block, "AveragePool", *block]


def test_batch_norm_has_keras_epsilon():
    norms = [layer for layer in net("cnn2-8-8", GREY).blocks if isinstance(layer, torch.nn.BatchNorm2d)]
    assert {layer.eps for layer in norms} == {1e-3} and len(norms) == 2


def test_weights_start_glorot_uniform_and_biases_at_zero():
    model = net("cnn2-64-128", GREY, 10)
    second = next(layer for layer in model.blocks if getattr(layer, "out_channels", 0) == 128)
    for weight, fans in ((second.weight, 9 * 64 + 9 * 128), (model.linear.weight, 13 * 13 * 128 + 10)):
        bound = math.sqrt(6 / fans)
        assert 0.98 * bound < weight.abs().max() <= bound
        assert float(weight.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert all((layer.bias == 0).all() for layer in model.blocks if isinstance(layer, torch.nn.Conv2d))


def test_penalty_is_a_thousandth_of_the_last_layers_squares():
    model = net("cnn2-8-8", GREY, 10)
    with torch.no_grad():
        model.linear.weight.fill_(2.0)
    assert float(model.penalty()) == pytest.approx(1e-3 * 4 * 13 * 13 * 8 * 10)
    model.penalty().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is not None] == ["linear.weight"]
