"""A Step's handlers: seeded by the Step alone, at the experiment's threads, on the experiment's device."""

import numpy as np
import pytest
import torch

import altered
from kdlib.errors import KdlibError
from kdlib.invoke.perform import measured, perform
from kdlib.invoke.steps import Step
from kdlib.settings.experiment import make_experiment
from kdlib.store.store import Session, Store


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path))


def smoke(strategy="alone", **settings):
    return make_experiment("digits", strategy, 1.0, profile="smoke", **settings)


def drawn(patch, strategy, *steps):
    """The strategy's steps draw numbers, and say in which store and with how many threads they do."""
    found = []

    def draw(experiment, store, round_, subject):
        found.append((float(torch.rand(())), torch.get_num_threads(), store))
        return {"drawn": found[-1][0]}

    altered.handlers(patch, strategy, **dict.fromkeys(steps, draw))
    return found


def test_a_step_is_seeded_by_seed_round_subject_and_step_and_by_nothing_before_it(store, monkeypatch):
    drawn(monkeypatch, "alone", "train", "evaluate")

    def number(step=("train", 1, "client-0000"), **settings):
        torch.rand(int(np.random.default_rng().integers(1, 9)))
        before = torch.random.get_rng_state()
        (part,) = perform(smoke(**settings), store, Step(*step))
        assert torch.equal(torch.random.get_rng_state(), before)
        return part.metrics["drawn"]

    assert number() == number() == number(rounds=9)
    other = [number(), number(seed=1), number(("train", 2, "client-0000")), number(("train", 1, "client-0001")),
             number(("evaluate", 1, "client-0000"))]
    assert len(set(other)) == 5


def test_it_runs_at_the_experiments_threads(store, monkeypatch):
    found = drawn(monkeypatch, "alone", "train")
    for threads in (2, 1):
        record = measured(perform, "key", smoke(threads=threads), store, Step("train", 1, "client-0000"), "inline")
        assert record.threads == threads == found[-1][1]


def test_the_parts_of_a_fused_step_share_what_they_read_and_a_single_one_has_the_store_itself(store, monkeypatch):
    found = drawn(monkeypatch, "fedmd", "digest", "revisit", "evaluate", "communicate")
    parts = perform(smoke("fedmd"), store, Step("digest+revisit+evaluate>communicate", 2, "client-0000"))
    assert [(part.step, part.round) for part in parts] == [("digest", 2), ("revisit", 2), ("evaluate", 2),
                                                           ("communicate", 3)]
    assert len({id(place) for *_, place in found}) == 1 and isinstance(found[0][2], Session)
    single = [perform(smoke("fedmd"), store, Step(part.step, part.round, "client-0000"))[0] for part in parts]
    assert [part.metrics for part in single] == [part.metrics for part in parts], "a part is seeded like the Step"
    assert found[-1][2] is store


def test_a_device_that_is_not_there_is_refused_before_any_handler(store, monkeypatch):
    found = drawn(monkeypatch, "alone", "train")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(KdlibError, match="device cuda: this machine has none that PyTorch can use; allowed here: cpu"):
        perform(smoke(device="cuda"), store, Step("train", 1, "client-0000"))
    assert found == [] and not torch.are_deterministic_algorithms_enabled()
