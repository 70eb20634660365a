"""The engine's numbers are frozen: kept runs and new ones of an equal kind of CPU are of one engine.

A training step's bytes, for each architecture of both zoos. After a change that is meant to alter last bits, which the
changelog then says: python tests/fidelity/test_frozen.py
"""

import hashlib
import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F

from kdlib.learning import client
from kdlib.learning.engine import Batches, predict
from kdlib.machine import machine
from kdlib.settings.architectures import TEXT_ZOO, ZOO
from kdlib.settings.experiment import make_experiment
from kdlib.settings.task import load_task

FROZEN = Path(__file__).with_name("frozen.json")


def kind():
    """Of the CPU: the instructions that PyTorch's kernels are chosen by, and its maker, whose libraries differ."""
    here = machine()
    return " ".join([here["cpu"].split()[0], f"torch-{here['torch']}", *here["flags"]])


def step(architecture):
    """SHA-256 of the weights and of the logits after two steps, dropout and all, on a batch of 32 drawn items."""
    text = architecture in TEXT_ZOO
    experiment = make_experiment(load_task("shakespeare" if text else "mnist"), "feddf",
                                 **({"width": 0.25} if text else {"alpha": 0.1, "width": 0.125}), profile="paper")
    generator = torch.Generator().manual_seed(0)
    shape = (64, *experiment.task.shape)
    x = torch.randint(experiment.task.vocabulary, shape, generator=generator) if text else \
        torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    y = torch.randint(experiment.classes, (64,), generator=generator)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = client.start(experiment, architecture)
            client.fit(experiment, model, Batches(experiment, x, y, 32, 0), F.cross_entropy, epochs=1)
            logits = predict(experiment, model, x)
    finally:
        torch.set_num_threads(threads)
    left = {name: tensor.contiguous() for name, tensor in {**model.state_dict(), "logits": logits}.items()}
    return hashlib.sha256(safetensors.torch.save(left)).hexdigest()[:16]


@pytest.mark.parametrize("architecture", [*ZOO, *TEXT_ZOO])
def test_a_step_has_the_bytes_that_it_had(architecture):
    frozen = json.loads(FROZEN.read_text())
    if kind() not in frozen:
        pytest.skip(f"no bytes are kept of this kind of CPU ({kind()}); here they are {step(architecture)}")
    assert step(architecture) == frozen[kind()][architecture]


def test_another_order_or_rate_has_other_bytes(monkeypatch):
    """So that the test above can fail."""
    before = step("cnn2-128-256")
    assert step("cnn2-128-256") == before
    real = torch.optim.Adam
    monkeypatch.setattr(torch.optim, "Adam", lambda *args, **settings: real(*args, **settings | {"eps": 1.01e-7}))
    assert step("cnn2-128-256") != before


if __name__ == "__main__":
    kept = json.loads(FROZEN.read_text()) if FROZEN.exists() else {}
    kept[kind()] = {name: step(name) for name in (*ZOO, *TEXT_ZOO)}
    FROZEN.write_text(json.dumps(kept, indent=1) + "\n")
