"""A Step's bytes depend on no state of PyTorch that a notebook left, and it leaves that state as it was."""

import contextlib
import random

import numpy as np
import pytest
import torch

import altered
from kdlib.invoke.perform import perform
from kdlib.invoke.steps import Step
from kdlib.learning import models
from kdlib.learning.determinism import _dials, _flushes
from kdlib.settings.experiment import make_experiment
from kdlib.store.store import Store


def through(setter, value, back):
    """A state that a function sets, and another call puts back."""
    @contextlib.contextmanager
    def state():
        setter(value)
        try:
            yield
        finally:
            setter(back)

    return state


def attribute(owner, name, value):
    return through(lambda to: setattr(owner, name, to), value, getattr(owner, name))


@contextlib.contextmanager
def new_and_old_precision_mixed():
    with through(torch.set_float32_matmul_precision, "medium", "highest")():
        torch.backends.mkldnn.matmul.fp32_precision = "tf32"
        with pytest.raises(RuntimeError, match="mix of the legacy and new"):
            torch.get_float32_matmul_precision()
        yield


STATES = {
    "matmul precision": through(torch.set_float32_matmul_precision, "medium", "highest"),
    "default dtype float64": through(torch.set_default_dtype, torch.float64, torch.float32),
    "default dtype bfloat16": through(torch.set_default_dtype, torch.bfloat16, torch.float32),
    "default device": through(torch.set_default_device, "meta", None),
    "device context": lambda: torch.device("meta"),
    "deterministic": through(torch.use_deterministic_algorithms, True, False),
    "no grad": torch.no_grad,
    "inference mode": torch.inference_mode,
    "threads": through(torch.set_num_threads, 2, torch.get_num_threads()),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "flush denormal": through(torch.set_flush_denormal, True, False),
    "no mkldnn": attribute(torch.backends.mkldnn, "enabled", False),
    "mkldnn deterministic": attribute(torch.backends.mkldnn, "deterministic", True),
    "anomaly mode": lambda: torch.autograd.set_detect_anomaly(True),
    "no flash attention": through(torch.backends.cuda.enable_flash_sdp, False, True),
    "no fast path": through(torch.backends.mha.set_fastpath_enabled, False, True),
    "numpy raises": lambda: np.errstate(all="raise"),
}
if hasattr(torch.backends, "fp32_precision"):
    STATES["generic precision"] = attribute(torch.backends, "fp32_precision", "bf16")
    STATES["convolutions' precision"] = attribute(torch.backends.mkldnn.conv, "fp32_precision", "bf16")
    STATES["precision by new and old names"] = new_and_old_precision_mixed


def seen():
    """All of the state that can be read."""
    there = [torch.get_num_threads(), torch.get_default_device(), torch.are_deterministic_algorithms_enabled(),
             torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"),
             torch.is_anomaly_enabled(), np.geterr()]
    for dial in _dials():
        try:
            there.append(dial.get())
        except RuntimeError as error:
            there.append(str(error))
    return there


@pytest.fixture(scope="module")
def experiment():
    return make_experiment("digits", "alone", 1.0, profile="smoke", architectures=["cnn2-128-256", "resnet8"],
                           clients=2, samples=40, local_epochs=1)


@pytest.fixture(scope="module")
def after(experiment, tmp_path_factory):
    """The bytes and metrics that a client's first Steps end with."""
    from kdlib.data import sets
    from kdlib.runs.runner import deploy

    def carried_out():
        store = Store(str(tmp_path_factory.mktemp("store")))
        deploy(experiment, sets.prepare(experiment), store)
        metrics = [part.metrics for client in experiment.client_names for name in ("train", "evaluate")
                   for part in perform(experiment, store, Step(name, 1, client))]
        return [store.content(f"{client}/001/weights") for client in experiment.client_names], metrics

    return carried_out


@pytest.fixture(scope="module")
def wanted(after):
    return after()


@pytest.mark.parametrize("state", STATES)
def test_a_step_ends_with_the_same_bytes_and_puts_back_what_it_found(state, experiment, after, wanted):
    with STATES[state]():
        before = seen()
        flushed = state == "flush denormal"
        models.expect_fit(experiment)
        models.work.cache_clear()
        work = models.work(experiment, "cnn2-128-256")
        assert after() == wanted
        assert seen() == before
        if flushed:
            assert _flushes()
    models.work.cache_clear()
    assert work == models.work(experiment, "cnn2-128-256")


def test_python_and_numpy_draw_by_the_step_alone_and_go_on_as_if_nothing_had_been_drawn(tmp_path, monkeypatch):
    found = []

    def draw(experiment, store, round_, subject):
        found.append((random.random(), float(np.random.rand())))
        return {"drawn": found[-1][0]}

    altered.handlers(monkeypatch, "alone", train=draw)
    store, experiment = Store(str(tmp_path)), make_experiment("digits", "alone", 1.0, profile="smoke")
    random.seed(1), np.random.seed(1)
    ahead = random.random(), np.random.rand()
    for _ in range(2):
        random.seed(1), np.random.seed(1)
        perform(experiment, store, Step("train", 1, "client-0000"))
        assert (random.random(), np.random.rand()) == ahead
    perform(experiment, store, Step("train", 2, "client-0000"))
    assert found[0] == found[1] != found[2]
