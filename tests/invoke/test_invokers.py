"""Inline and Mixed: who runs what, in which order, and what a Record then says."""

import pytest
import torch

import made
from kdlib.errors import KdlibError
from kdlib.invoke import perform
from kdlib.invoke.invokers import Base, Inline, Mixed
from kdlib.invoke.steps import Part, Stage, Step
from kdlib.settings.experiment import make_experiment
from kdlib.store.store import Store

ONE = {"x": torch.zeros(100)}


@pytest.fixture
def experiment():
    return make_experiment("digits", "alone", 1.0, profile="smoke", threads=2)


@pytest.fixture
def store(tmp_path):
    store = Store(str(tmp_path))
    store.put("given", ONE)
    return store


def copy(experiment, store, step):
    """Each Step's work: reads one object, writes two."""
    parts = []
    for name, round_, subject in step.parts:
        given = store.get("given")
        store.put(f"{subject}/one", given)
        store.put(f"{subject}/two", given)
        parts.append(Part(step=name, round=round_, seconds=0.5, metrics={"items": 2.0}))
    return parts


def test_inline_yields_a_record_a_step_as_they_come(experiment, store):
    steps = Stage("train", ("b", "a"), 3).steps
    ran = []
    records = Inline(lambda *args: ran.append(args[2]) or copy(*args)).run("key", experiment, store, steps)
    assert list(next(records).done) == steps[:1] == ran
    rest = list(records)
    assert [step for record in rest for step in record.done] == steps[1:] and ran == steps


def test_a_record_counts_its_own_bytes_and_says_what_ran(experiment, store, monkeypatch):
    monkeypatch.setattr(perform, "_warm", False)
    first, second = Inline(copy).run("key", experiment, store, Stage("train", ("a", "b"), 1).steps)
    size = len(store.content("given"))
    for record in (first, second):
        assert (record.bytes_in, record.bytes_out) == (size, 2 * size)
        assert (record.run, record.threads, record.backend, record.around) == ("key", 2, "inline", 0)
        assert [part.metrics for part in record.parts] == [{"items": 2}] and record.peak_memory > 2**20
    assert (first.cold, second.cold) == (True, False)
    assert first.started <= second.started and 0 < first.seconds < second.started - first.started + second.seconds


def test_a_fused_record_has_all_its_steps_and_counts_its_bytes_once(experiment, store):
    step = Step("digest+revisit>communicate", 2, "a")
    (record,) = Inline(copy).run("key", experiment, store, [step])
    assert Step(record.step, record.round, record.subject) == step
    assert list(record.done) == [Step("digest", 2, "a"), Step("revisit", 2, "a"), Step("communicate", 3, "a")]
    assert tuple(record.done.values()) == record.parts
    assert [(part.step, part.round, part.metrics) for part in record.parts] == [
        (name, round_, {"items": 2}) for name, round_, _ in step.parts]
    assert record.bytes_out == 2 * record.bytes_in == 6 * len(store.content("given"))


def test_a_failing_step_gives_no_record(experiment, store):
    def fail(*_):
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        list(Inline(fail).run("key", experiment, store, [Step("train", 1, "a")]))


class Told(Base):
    """Says what it was asked for; of some subjects it reports that they failed."""

    def __init__(self, name, log, failing=(), **qualities):
        self.name, self.log, self.failing = name, log, failing
        vars(self).update(qualities)

    def run(self, key, experiment, store, steps):
        for step in steps:
            self.log.append((self.name, step.name, step.subject))
            yield made.record(step.name, step.subject, 1.0, step.round, backend="inline")

    def attempt(self, key, experiment, store, steps):
        for step, outcome in super().attempt(key, experiment, store, steps):
            yield step, KdlibError("late") if step.subject in self.failing else outcome

    def cancel(self):
        self.log.append((self.name, "cancel"))

    def close(self):
        self.log.append((self.name, "close"))


@pytest.mark.parametrize(("stage", "carried"), [
    (Stage("pretrain", ("cnn2-128-256",)), "workers"), (Stage("transfer", ("client-0000",)), "others"),
    (Stage("aggregate", ("server",), 1), "others"),
    (Stage("transfer+evaluate>communicate", ("client-0001",)), "others"),
])
def test_mixed_has_workers_do_what_no_function_does(stage, carried):
    log = []
    mixed = Mixed(Told("workers", log), Told("others", log))
    fedmd = make_experiment("digits", "fedmd", 1.0, profile="smoke")
    records = list(mixed.run("key", fedmd, None, stage.steps))
    assert log == [(carried, stage.name, stage.subjects[0])]
    assert [(one.step, one.subject) for one in records] == [(stage.name, stage.subjects[0])]


def test_mixed_reports_who_failed_and_is_in_all_else_as_its_functions_are():
    log = []
    others = Told("others", log, failing=("client-0001",), patient=True, replays=False, store="s3://runs")
    mixed = Mixed(Told("workers", log), others)
    assert (mixed.patient, mixed.replays, mixed.store) == (True, False, "s3://runs")
    fedmd = make_experiment("digits", "fedmd", 1.0, profile="smoke")
    outcomes = dict(mixed.attempt("key", fedmd, None, Stage("digest", ("client-0000", "client-0001"), 1).steps))
    assert str(outcomes[Step("digest", 1, "client-0001")]) == "late"
    assert outcomes[Step("digest", 1, "client-0000")].subject == "client-0000"
    mixed.cancel()
    mixed.close()
    assert log[-4:] == [("workers", "cancel"), ("others", "cancel"), ("workers", "close"), ("others", "close")]


def test_inline_waits_for_nobody(experiment, store):
    invoker = Inline(copy)
    assert not invoker.patient and invoker.replays and invoker.store is None
    steps = Stage("train", ("a", "b"), 1).steps
    assert [(step, list(one.done)) for step, one in invoker.attempt("key", experiment, store, steps)] == [
        (step, [step]) for step in steps]
    invoker.cancel()
    invoker.close()
