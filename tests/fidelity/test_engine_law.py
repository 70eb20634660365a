"""The engine's law: it is faster than a plain loop, and nothing else. The plain side is kdlib.paper.bench.plain."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdlib.data import sets
from kdlib.learning import client
from kdlib.learning.engine import Batches, inputs, predict
from kdlib.learning.layers import ReLUDropout
from kdlib.machine import has_bf16
from kdlib.paper.bench import plain
from kdlib.settings.architectures import ZOO
from kdlib.settings.experiment import make_experiment
from kdlib.settings.task import load_task
from kdlib.strategies.feddf import divergence

BF16 = pytest.param("bf16", marks=pytest.mark.skipif(not has_bf16(), reason="this CPU has no bf16 in hardware"))

# Items of the batch, and how far its gradient may be from the plain one's, relative to that one's norm. In float32
# PyTorch sums batch norm's channels-last statistics one by one, whose rounding grows with the pixels (full images and
# batches: 2e-5 of a logit, PyTorch's own); in bf16 it is the values that are rounded, which more items even out.
STEP = {"fp32": (8, 1e-5), "bf16": (128, 2e-2)}
SIDE = 12  # of the middle of an image, the least that every architecture takes


def both(experiment, architecture, gate=nn.ReLU):
    """The engine's model and the plain one without dropout, whose law has its own tests, and with another gate."""
    made = client.start(experiment, architecture), plain.model(experiment, architecture)
    for model in made:
        for index, layer in enumerate(model.blocks):
            if isinstance(layer, nn.Dropout):
                model.blocks[index] = nn.Identity()
            elif isinstance(layer, ReLUDropout | nn.ReLU):
                model.blocks[index] = gate()
    return made


def gradient(model):
    return torch.cat([parameter.grad.double().flatten() for parameter in model.parameters()])


def distance(engine, plain):
    return float((gradient(engine) - gradient(plain)).norm() / gradient(plain).norm())


@pytest.mark.parametrize("architecture", ZOO)
def test_in_float64_its_model_is_the_plain_one(architecture):
    """The mathematics, without rounding in the way."""
    experiment = make_experiment("digits", "feddf", 1.0, profile="paper")
    train = sets.prepare(experiment).private
    x, y = torch.from_numpy(train.x[:8]), torch.from_numpy(train.y[:8])
    engine, written = (model.double() for model in both(experiment, architecture))
    for model, seen in ((engine, inputs(experiment, x)), (written, plain.pictures(x))):
        (F.cross_entropy(model(seen.double()), y) + model.penalty()).backward()
    assert distance(engine, written) < 1e-12


@pytest.mark.parametrize("loss", [F.cross_entropy, F.l1_loss, divergence], ids=["train", "digest", "distil"])
@pytest.mark.parametrize("precision", ["fp32", BF16])
@pytest.mark.parametrize("architecture", ZOO)
def test_one_step_has_the_plain_gradient(architecture, precision, loss):
    """Through Lightning, from equal weights.

    Where a last bit may turn a derivative, a ReLU's or an absolute error's, a step says nothing of its arithmetic: so
    the gate is smooth here, and no logit near its target.
    """
    items, allowed = STEP[precision]
    digits = load_task("digits")
    experiment = make_experiment(digits.model_copy(update={"shape": (SIDE, SIDE)}), "feddf", 1.0, profile="paper",
                                 width=0.125, precision=precision)
    train, middle = sets.load("digits").train, slice(14 - SIDE // 2, 14 + SIDE // 2)
    x, y = torch.from_numpy(train.x[:items, middle, middle].copy()), torch.from_numpy(train.y[:items])
    if loss is F.cross_entropy:
        y %= experiment.classes
    else:
        y = 8 * torch.randn(items, experiment.classes, generator=torch.Generator().manual_seed(0)).sign()
    engine, written = both(experiment, architecture, nn.Tanh)
    client.fit(experiment, engine, Batches(experiment, x, y, items, seed=0), loss, steps=1)
    plain.train(experiment, written, x, y, items, batches=1, loss=loss)
    assert 0 < distance(engine, written) < allowed


@pytest.fixture(scope="module")
def accuracy():
    """Way -> test accuracy of each of ten seeds: the same starts, five epochs over half of digits, dropout and all."""
    found = {"plain": [], "fp32": [], "bf16": []}
    for seed in range(10):
        experiment = make_experiment("digits", "alone", 1.0, seed, profile="smoke", samples=None,
                                     architectures=["cnn3-64-128-256"])
        drawn = sets.prepare(experiment)
        order = experiment.rng(0, "server", "half").permutation(len(drawn.private.y))[:640]
        x, y = torch.from_numpy(drawn.private.x[order]), torch.from_numpy(drawn.private.y[order])
        held = torch.from_numpy(drawn.test.x)
        torch.manual_seed(seed)
        written = plain.model(experiment, experiment.architectures[0])
        plain.train(experiment, written, x, y, experiment.batch, batches=5 * 640 // experiment.batch)
        logits = {"plain": plain.predict(written, held, 128)}
        for precision in ("fp32", "bf16"):
            ours = experiment.model_copy(update={"precision": precision})
            model = client.start(ours, ours.architectures[0])
            client.fit(ours, model, Batches(ours, x, y, ours.batch, seed), F.cross_entropy, epochs=5)
            logits[precision] = predict(ours, model, held)
        for way, its in logits.items():
            found[way].append(float((its.argmax(1).numpy() == drawn.test.y).mean()))
    return found


@pytest.mark.parametrize("precision", ["fp32", BF16])
def test_over_ten_seeds_its_accuracy_is_the_plain_one_within_a_point(precision, accuracy):
    print({way: [round(value, 3) for value in values] for way, values in accuracy.items()})
    assert np.mean(accuracy["plain"]) > 0.8, "nothing was learnt, so nothing is shown"
    assert abs(np.mean(accuracy[precision]) - np.mean(accuracy["plain"])) < 0.01
