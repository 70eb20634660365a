import math

import pydantic
import pytest
import torch

from kdlib.invoke import steps
from kdlib.invoke.steps import Inline, Part, Record, Stage, Step
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


def test_a_stage_has_one_step_a_subject_in_their_order():
    assert Stage("train", ("b", "a"), 3).steps == [Step("train", 3, "b"), Step("train", 3, "a")]
    assert Stage("pretrain", ("a",)).steps == [Step("pretrain", 0, "a")]


@pytest.mark.parametrize(("name", "parts"), [
    ("digest", [("digest", 4)]),
    ("digest+revisit", [("digest", 4), ("revisit", 4)]),
    ("evaluate>communicate", [("evaluate", 4), ("communicate", 5)]),
    ("a+b>c+d>e", [("a", 4), ("b", 4), ("c", 5), ("d", 5), ("e", 6)]),
])
def test_a_fused_step_is_its_parts_in_order_and_later_rounds_follow(name, parts):
    assert Step(name, 4, "client-0001").parts == [Step(part, round_, "client-0001") for part, round_ in parts]


@pytest.mark.parametrize("name", ["digest", "digest+revisit", "evaluate>communicate", "a+b>c+d"])
def test_any_rest_of_a_steps_parts_is_a_step(name):
    parts = Step(name, 4, "client-0001").parts
    assert Step.fused(parts) == Step(name, 4, "client-0001")
    for done in range(1, len(parts)):
        assert Step.fused(parts[done:]).parts == parts[done:]


def test_inline_yields_a_record_a_step_as_they_come(experiment, store):
    steps = Stage("train", ("b", "a"), 3).steps
    ran = []
    records = Inline(lambda *args: ran.append(args[2]) or copy(*args)).run("key", experiment, store, steps)
    assert list(next(records).done) == steps[:1] == ran
    rest = list(records)
    assert [step for record in rest for step in record.done] == steps[1:] and ran == steps


def test_a_record_counts_its_own_bytes_and_says_what_ran(experiment, store, monkeypatch):
    monkeypatch.setattr(steps, "_warm", False)
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


@pytest.mark.parametrize("name", ["train", "train+evaluate>train"])
def test_a_record_survives_json_and_is_frozen(name, experiment, store):
    record = steps.measured(copy, "key", experiment, store, Step(name, 1, "a"), "inline")
    assert Record.model_validate_json(record.model_dump_json()) == record
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        record.seconds = 0.0
    with pytest.raises(pydantic.ValidationError, match="extra"):
        Record(**record.model_dump(), host="here")


def test_a_loss_that_diverged_can_be_read_again(experiment, store):
    part = Part(step="train", round=1, seconds=0.0, metrics={"loss": float("nan")})
    record = Inline(lambda *_: [part]).run("key", experiment, store, [Step("train", 1, "a")])
    text = next(record).model_dump_json()
    assert math.isnan(Record.model_validate_json(text).parts[0].metrics["loss"])


def test_a_failing_step_gives_no_record(experiment, store):
    def fail(*_):
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        list(Inline(fail).run("key", experiment, store, [Step("train", 1, "a")]))
