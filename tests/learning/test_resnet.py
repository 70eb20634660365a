"""The small residual networks: sizes by hand, and a training that comes out the same each time."""

import pytest
import torch
import torch.nn.functional as F
from pictures import pictures

from kdlib.learning import client, engine
from kdlib.learning.networks.resnet import Residual
from kdlib.settings.experiment import make_experiment
from made import net, task

COLOUR = task((32, 32, 3))


def by_hand(blocks, classes):
    """Convolutions without bias, gamma and beta of each norm, 1 x 1 shortcuts where a stage begins anew."""
    found, before = 9 * 3 * 16 + 2 * 16, 16
    for filters in (16, 32, 64):
        found += 9 * before * filters + 9 * filters * filters + 2 * 2 * filters
        found += (blocks - 1) * (2 * 9 * filters * filters + 2 * 2 * filters)
        found += before * filters if before != filters else 0
        before = filters
    return found + 64 * classes + classes


@pytest.mark.parametrize(("architecture", "blocks"), [("resnet8", 1), ("resnet20", 3)])
def test_parameters_are_those_counted_by_hand(architecture, blocks):
    model = net(architecture, COLOUR, 10)
    assert sum(parameter.numel() for parameter in model.parameters()) == by_hand(blocks, 10)
    kernels = [layer.kernel_size[0] for layer in model.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert kernels.count(3) + 1 == int(architecture.removeprefix("resnet")), "the linear layer is the last"


@pytest.mark.parametrize("shape", [(32, 32, 3), (28, 28), (8, 8), (1, 1)])
@pytest.mark.parametrize("architecture", ["resnet8", "resnet20"])
def test_sizes_halve_where_a_stage_begins_and_any_image_is_taken(architecture, shape):
    of_task, sides = task(shape), []
    model = net(architecture, of_task, 10, width=0.25).eval()
    for layer in model:
        if isinstance(layer, Residual):
            layer.register_forward_hook(lambda _, __, output: sides.append((output.shape[1], output.shape[2])))
    assert model(torch.zeros(2, *of_task.image)).shape == (2, 10)
    full, half, quarter = shape[0], -(-shape[0] // 2), -(-shape[0] // 4)
    assert list(dict.fromkeys(sides)) == [(4, full), (8, half), (16, quarter)]


def test_a_block_adds_what_it_was_given():
    block = Residual(3, 3, 1).eval()
    x = torch.rand(2, 3, 5, 5)
    with torch.no_grad():
        for weights in block.parameters():
            weights.zero_()
        assert torch.equal(block(x), x)


@pytest.mark.parametrize("architecture", ["resnet8", "resnet20"])
def test_a_start_is_the_generators(architecture):
    first, same, other = (net(architecture, COLOUR, seed=seed)[0].weight for seed in (0, 0, 1))
    assert torch.equal(first, same) and not torch.equal(first, other)


@pytest.mark.parametrize("architecture", ["resnet8", "resnet20"])
def test_it_learns_and_comes_out_the_same_each_time(architecture):
    experiment = make_experiment("digits", "alone", profile="smoke", width=0.25, architectures=[architecture])
    x, y = pictures(48)
    ends = []
    for _ in range(2):
        torch.manual_seed(1)
        model = client.start(experiment, architecture)
        assert {layer.momentum for layer in model.modules() if isinstance(layer, torch.nn.BatchNorm2d)} == {0.1}
        batches = engine.Batches(experiment, x, y, 16, seed=5)
        first = client.fit(experiment, model, batches, F.cross_entropy, steps=3)["loss"]
        last = client.fit(experiment, model, batches, F.cross_entropy, epochs=12)["loss"]
        ends.append((model.state_dict(), first, last))
    (one, *losses), (other, *others) = ends
    assert all(torch.equal(one[name], other[name]) for name in one) and losses == others
    assert losses[1] < losses[0]
