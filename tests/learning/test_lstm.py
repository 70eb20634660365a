"""The LSTMs: sizes and starts by hand, outputs and gradients against an LSTM written out step by step."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kdlib import machine as machine_module
from kdlib.errors import KdlibError
from kdlib.learning import client, engine
from kdlib.learning.models import penalty
from kdlib.machine import has_bf16
from kdlib.settings.architectures import TEXT_ZOO
from kdlib.settings.experiment import make_experiment
from kdlib.settings.task import load_task
from made import net

PRECISION = [pytest.param("fp32", 1e-5), pytest.param("bf16", 2e-2, marks=pytest.mark.skipif(
    not has_bf16(), reason="this CPU has no bf16 in hardware"))]


def test_bf16_on_a_cpu_without_it_is_one_clear_line(monkeypatch):
    experiment = make_experiment("shakespeare", "alone", profile="smoke", precision="bf16")
    monkeypatch.setattr(machine_module, "machine", lambda: {"flags": ["avx2"]})
    with pytest.raises(KdlibError, match=r"this CPU has none in hardware.*allowed here: fp32"):
        client.start(experiment, "client-0000")
    client.start(experiment.model_copy(update={"precision": "fp32"}), "client-0000")


def model(architecture, width=1.0, seed=0):
    return net(architecture, load_task("shakespeare"), 82, width, seed)


def by_hand(weights, x):
    """Logits of an LSTM (Hochreiter and Schmidhuber, 1997) without peepholes, with one bias a gate, in float64."""
    w = {name: tensor.double() for name, tensor in weights.items()}
    sequence = list(w["embedding.weight"][x].unbind(1))
    for layer in range(sum(name.startswith("lstm.weight_hh") for name in w)):
        into, back, bias = (w[f"lstm.{kind}_l{layer}"] for kind in ("weight_ih", "weight_hh", "bias_ih"))
        h = c = torch.zeros(len(x), back.shape[1], dtype=torch.float64)
        states = []
        for step in sequence:
            i, f, g, o = (step @ into.T + h @ back.T + bias).chunk(4, dim=1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            states.append(h)
        sequence = states
    return sequence[-1] @ w["linear.weight"].T + w["linear.bias"]


def texts(items, window=80, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 82, (items, window)).astype(np.int8)), torch.from_numpy(
        rng.integers(0, 82, items))


# Embedding 82 x 8; a layer's four gates of (inputs + units + a bias) and PyTorch's second bias; 82 outputs with a bias.
@pytest.mark.parametrize(("architecture", "parameters"), [
    ("lstm1-128", 82 * 8 + 4 * 128 * (8 + 128 + 2) + 82 * 129),
    ("lstm1-256", 82 * 8 + 4 * 256 * (8 + 256 + 2) + 82 * 257),
    ("lstm2-128", 82 * 8 + 4 * 128 * (8 + 128 + 2) + 4 * 128 * (128 + 128 + 2) + 82 * 129),
    ("lstm2-256", 82 * 8 + 4 * 256 * (8 + 256 + 2) + 4 * 256 * (256 + 256 + 2) + 82 * 257),
])
def test_parameters_are_those_counted_by_hand(architecture, parameters):
    assert architecture in TEXT_ZOO and sum(p.numel() for p in model(architecture).parameters()) == parameters


@pytest.mark.parametrize(("width", "units"), [(1.0, 128), (0.25, 32), (0.001, 1)])
def test_width_scales_every_layer(width, units):
    assert {weight.shape[1] for name, weight in model("lstm2-128", width).named_parameters() if "_hh_" in name and
            "weight" in name} == {units}


def test_it_starts_as_in_keras():
    start = dict(model("lstm2-128").named_parameters())
    embedding = start["embedding.weight"].detach()
    assert 0.049 < embedding.abs().max() <= 0.05 and abs(float(embedding.mean())) < 0.005
    for layer, inputs in enumerate((8, 128)):
        into, back = start[f"lstm.weight_ih_l{layer}"].detach(), start[f"lstm.weight_hh_l{layer}"].detach()
        bound = math.sqrt(6 / (inputs + 4 * 128))
        assert 0.98 * bound < into.abs().max() <= bound
        torch.testing.assert_close(back.T @ back, torch.eye(128), rtol=0, atol=1e-5)  # columns at right angles
        bias = start[f"lstm.bias_ih_l{layer}"].detach()
        assert bias.view(4, 128).unique(dim=1).flatten().tolist() == [0, 1, 0, 0], "not the forget gate's"
        second = start[f"lstm.bias_hh_l{layer}"]
        assert not second.requires_grad and not second.any(), "a second bias would double a gate's step"
    bound = math.sqrt(6 / (128 + 82))
    assert 0.98 * bound < start["linear.weight"].abs().max() <= bound and not start["linear.bias"].any()


def test_the_start_is_the_generators():
    first, same, other = (model("lstm1-128", 0.1, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first if "bias" not in name)


@pytest.mark.parametrize("architecture", ["lstm1-128", "lstm2-128"])
def test_logits_are_those_of_an_lstm_by_hand(architecture):
    x, _ = texts(7)
    made = model(architecture, 0.25)
    torch.testing.assert_close(made(x.long()).double(), by_hand(made.state_dict(), x.long()), rtol=0, atol=1e-5)


def test_there_is_no_penalty():
    made = model("lstm1-128", 0.1)
    made.linear.weight.data.fill_(2)
    assert float(penalty(made)) == 0


@pytest.mark.parametrize(("precision", "tolerance"), PRECISION)
@pytest.mark.parametrize("architecture", ["lstm1-128", "lstm2-128"])
def test_a_training_steps_gradients_are_those_of_an_lstm_by_hand(architecture, precision, tolerance):
    """Of the whole gradient, relative to its norm; the engine's own step, as Lightning makes it."""
    experiment = make_experiment("shakespeare", "alone", profile="smoke", precision=precision)
    x, y = texts(32)
    made = model(architecture)
    twin = {name: tensor.detach().double().requires_grad_("bias_hh" not in name)
            for name, tensor in made.state_dict().items()}
    F.cross_entropy(by_hand(twin, x.long()), y).backward()
    client.fit(experiment, made, engine.Batches(experiment, x, y, 32, seed=0), F.cross_entropy, steps=1)
    expected = torch.cat([tensor.grad.flatten() for tensor in twin.values() if tensor.requires_grad])
    found = torch.cat([tensor.grad.double().flatten() for tensor in made.parameters() if tensor.requires_grad])
    assert float((found - expected).norm() / expected.norm()) < tolerance


@pytest.mark.parametrize(("precision", "tolerance"), PRECISION)
def test_predictions_are_those_of_an_lstm_by_hand(precision, tolerance):
    experiment = make_experiment("shakespeare", "alone", profile="smoke", precision=precision)
    x, _ = texts(300)
    made = model("lstm2-128")
    expected = by_hand(made.state_dict(), x.long())
    found = engine.predict(experiment, made, x)
    assert found.dtype == torch.float32 and found.shape == (300, 82)
    assert float((found - expected).norm() / expected.norm()) < tolerance
