import math

import pydantic
import pytest
import torch

from kdlib import invoke
from kdlib.experiment import make_experiment
from kdlib.invoke import Inline, Record, Stage, Step
from kdlib.store import Store

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
    """A handler's work: reads one object, writes two."""
    given = store.get("given")
    store.put(f"{step.subject}/one", given)
    store.put(f"{step.subject}/two", given)
    return {"items": 2.0}


def test_a_stage_has_one_step_a_subject_in_their_order():
    assert Stage("train", ("b", "a"), 3).steps == [Step("train", 3, "b"), Step("train", 3, "a")]
    assert Stage("pretrain", ("a",)).steps == [Step("pretrain", 0, "a")]


def test_inline_yields_a_record_a_step_as_they_come(experiment, store):
    steps = Stage("train", ("b", "a"), 3).steps
    ran = []
    records = Inline(lambda *args: ran.append(args[2]) or copy(*args)).run("key", experiment, store, steps)
    assert next(records).done == steps[0] and ran == steps[:1]
    rest = list(records)
    assert [record.done for record in rest] == steps[1:] and ran == steps


def test_a_record_counts_its_own_bytes_and_says_what_ran(experiment, store, monkeypatch):
    monkeypatch.setattr(invoke, "_warm", False)
    first, second = Inline(copy).run("key", experiment, store, Stage("train", ("a", "b"), 1).steps)
    size = len(store.content("given"))
    for record in (first, second):
        assert (record.bytes_in, record.bytes_out) == (size, 2 * size)
        assert (record.run, record.threads, record.backend, record.around) == ("key", 2, "inline", 0)
        assert record.metrics == {"items": 2} and record.peak_memory > 2**20
    assert (first.cold, second.cold) == (True, False)
    assert first.started <= second.started and 0 < first.seconds < second.started - first.started + second.seconds


def test_a_record_survives_json_and_is_frozen(experiment, store):
    record = invoke.measured(copy, "key", experiment, store, Step("train", 1, "a"), "inline")
    assert Record.model_validate_json(record.model_dump_json()) == record
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        record.seconds = 0.0
    with pytest.raises(pydantic.ValidationError, match="extra"):
        Record(**record.model_dump(), host="here")


def test_a_loss_that_diverged_can_be_read_again(experiment, store):
    record = Inline(lambda *_: {"loss": float("nan")}).run("key", experiment, store, [Step("train", 1, "a")])
    text = next(record).model_dump_json()
    assert math.isnan(Record.model_validate_json(text).metrics["loss"])


def test_a_failing_step_gives_no_record(experiment, store):
    def fail(*_):
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        list(Inline(fail).run("key", experiment, store, [Step("train", 1, "a")]))
