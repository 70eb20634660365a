"""Steps, Stages and Records: how they are named, taken apart, and written."""

import math

import pydantic
import pytest

from kdlib.invoke.steps import Part, Record, Stage, Step
from made import record


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
    assert Step.joined(parts) == Step(name, 4, "client-0001")
    for done in range(1, len(parts)):
        assert Step.joined(parts[done:]).parts == parts[done:]


@pytest.mark.parametrize("name", ["train", "train+evaluate>train"])
def test_a_record_survives_json_and_is_frozen(name):
    parts = tuple(Part(step=part, round=round_, seconds=0.5, metrics={"items": 2.0})
                  for part, round_, _ in Step(name, 1, "a").parts)
    made = record(name, "a", 1.5, parts=parts)
    assert Record.model_validate_json(made.model_dump_json()) == made
    assert tuple(made.done.values()) == parts and list(made.done) == Step(name, 1, "a").parts
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        made.seconds = 0.0
    with pytest.raises(pydantic.ValidationError, match="extra"):
        Record(**made.model_dump(), host="here")


def test_a_loss_that_diverged_can_be_read_again():
    text = record("train", "a", 1.0, metrics={"loss": float("nan")}).model_dump_json()
    assert math.isnan(Record.model_validate_json(text).parts[0].metrics["loss"])
