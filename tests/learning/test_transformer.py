"""The small transformer: sizes by hand, the order of tokens, and a training that comes out the same each time."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kdlib.learning import client, engine
from kdlib.settings.experiment import make_experiment
from kdlib.settings.task import load_task
from made import net

TEXTS = load_task("shakespeare")


@pytest.mark.parametrize("units", [16, 64])
def test_parameters_are_those_counted_by_hand(units):
    # Embeddings of 82 tokens and 80 places; a layer: query, key, value and output with biases, two norms, and a hidden
    # layer of four times the units; 82 outputs with a bias.
    layer = 4 * (units * units + units) + 2 * 2 * units + (units * 4 * units + 4 * units) + (4 * units * units + units)
    expected = (82 + 80) * units + 2 * layer + units * 82 + 82
    assert sum(p.numel() for p in net(f"transformer2-{units}", TEXTS, 82).parameters()) == expected


@pytest.mark.parametrize(("units", "width", "found"), [(64, 1.0, 64), (64, 0.25, 16), (64, 0.001, 4), (30, 1.0, 32),
                                                       (2, 1.0, 4)])
def test_width_scales_it_in_multiples_of_its_heads(units, width, found):
    assert net(f"transformer2-{units}", TEXTS, 82, width).linear.in_features == found


def test_the_places_of_tokens_count():
    model = net("transformer2-16", TEXTS, 82).eval()
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 82, (5, 80)))
    with torch.no_grad():
        there, elsewhere = model(x), model(x[:, [*range(78, -1, -1), 79]])
    assert there.shape == (5, 82) and (there - elsewhere).abs().max() > 1e-4


def test_it_learns_and_comes_out_the_same_each_time():
    experiment = make_experiment("shakespeare", "alone", profile="smoke", architectures=["transformer2-64"], width=0.5)
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.integers(0, 82, (64, 80)).astype(np.int8))
    y = x[:, -1].long()
    ends = []
    for noise in (1, 2):
        torch.manual_seed(noise)  # neither the start nor the order of batches draws from what a Step has not seeded
        model = client.start(experiment, "client-0000")
        torch.manual_seed(1)
        batches = engine.Batches(experiment, x, y, 16, seed=5)
        first = client.fit(experiment, model, batches, F.cross_entropy, steps=3)["loss"]
        last = client.fit(experiment, model, batches, F.cross_entropy, epochs=5)["loss"]
        ends.append((model.state_dict(), first, last))
    (one, *losses), (other, *others) = ends
    assert all(torch.equal(one[name], other[name]) for name in one) and losses == others
    assert losses[1] < losses[0]
