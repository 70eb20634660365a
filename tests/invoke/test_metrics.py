"""What a Record may say: whoever sent it, a value that cannot be is refused in one line before it is written."""

import json
import math

import pytest
from pydantic import ValidationError

import altered
import made
from kdlib.errors import KdlibError
from kdlib.invoke import metrics
from kdlib.invoke.perform import perform
from kdlib.invoke.steps import Record, Step
from kdlib.runs import run, runner
from kdlib.settings.experiment import make_experiment
from kdlib.strategies import alone

KEY = "0" * 16
ALONE = make_experiment("digits", "alone", 1.0, profile="smoke", clients=3, rounds=2, samples=40, test_items=50,
                        local_epochs=1)


def text(**changes):
    return json.dumps(json.loads(made.record("train", "client-0000", 1.0).model_dump_json()) | changes)


@pytest.mark.parametrize("changes", [
    {"seconds": math.nan}, {"seconds": math.inf}, {"seconds": -1.0}, {"seconds": 1e300}, {"started": math.nan},
    {"started": -5}, {"started": 1e15}, {"around": -0.1}, {"around": math.inf}, {"queue": math.nan},
    {"bytes_in": -1}, {"bytes_out": 10**30}, {"peak_memory": -(2**40)}, {"threads": 0}, {"threads": 10**6},
    {"round": -1}, {"round": 1000}, {"step": "train\u2028"}, {"step": ""}, {"subject": "client-0000\x85"},
    {"subject": "../etc"}, {"parts": []}, {"run": ""},
    {"parts": [{"step": "evaluate", "round": 1, "seconds": 1.0, "metrics": {"accuracy": 1.0}}]},
    {"parts": [{"step": "train", "round": 2, "seconds": 1.0, "metrics": {}}]},
    {"parts": 2 * [{"step": "train", "round": 1, "seconds": 1.0, "metrics": {}}]},
    {"parts": [{"step": "train", "round": 1, "seconds": -1.0, "metrics": {}}]},
    {"parts": [{"step": "train", "round": 1, "seconds": 1.0, "metrics": {"a\nb": 1.0}}]},
    {"parts": [{"step": "train", "round": 1, "seconds": 1.0, "metrics": {f"m{n}": 0.0 for n in range(65)}}]},
])
def test_a_record_that_cannot_be_is_none(changes):
    Record.model_validate_json(text())
    with pytest.raises(ValidationError):
        Record.model_validate_json(text(**changes))


@pytest.mark.parametrize(("measured", "says"), [
    ({"accuracy": 9.3}, "an accuracy of 9.3; allowed: 0 to 1"), ({"accuracy": -0.1}, "allowed: 0 to 1"),
    ({"accuracy": math.nan}, "an accuracy of nan"), ({"items": -3.0}, "items of -3; allowed: a whole number"),
    ({"items": math.inf}, "items of inf"), ({"batches": 1.5}, "batches of 1.5"), ({"clients": 1e300}, "clients of 1e"),
    ({"round": 99.0}, "round, which its strategy does not declare; allowed: accuracy, items"),
    ({"architecture": 0.0}, "architecture, which its strategy"), ({"Accuracy": 1.0}, None),
    ({"acc": 1.0}, "acc, which its strategy"),
])
def test_a_metric_is_known_and_can_be(measured, says):
    if says is None:
        with pytest.raises(ValidationError):
            made.record("evaluate", "client-0000", 1.0, metrics=measured)
        return
    with pytest.raises(KdlibError) as error:
        metrics.expect_record(made.record("evaluate", "client-0000", 1.0, metrics=measured), KEY, ALONE)
    assert says in str(error.value) and "evaluate of client-0000 in round 1 measured" in str(error.value)


def test_a_loss_may_diverge_and_what_a_strategy_declares_is_finite(monkeypatch):
    worst = {"loss": math.nan, "best": -math.inf, "items": 3.0}
    metrics.expect_record(made.record("train", "client-0000", 1.0, metrics=worst), KEY, ALONE)
    assert [line.split(":")[0] for line in metrics.diverged(made.record("train", "client-0000", 1.0, metrics=worst))] \
        == ["loss is nan", "best is -inf"]
    altered.declare(monkeypatch, "alone", metrics=("margin", "proximal_loss"))
    own = {"margin": -2.5, "proximal_loss": math.inf}
    metrics.expect_record(made.record("train", "client-0000", 1.0, metrics=own), KEY, ALONE)
    with pytest.raises(KdlibError, match="margin of nan; allowed: a finite number"):
        metrics.expect_record(made.record("train", "client-0000", 1.0, metrics={"margin": math.nan}), KEY, ALONE)


@pytest.mark.parametrize("name", ["round", "subject", "Margin", "a b"])
def test_a_strategy_declares_no_metric_that_would_hide_a_column(name, monkeypatch):
    with pytest.raises(KdlibError, match="is no name for a metric"):
        altered.declare(monkeypatch, "alone", metrics=(name,))


@pytest.mark.parametrize(("record", "says"), [
    (made.record("train", "client-0000", 1.0).model_copy(update={"run": "1" * 16}), "of run 1111111111111111; allowed"),
    (made.record("train", "client-0009", 1.0), "of client-0009; allowed: client-0000 to client-0002"),
    (made.record("train", "client-0000", 1.0, 3), "of round 3; allowed: 2 at most"),
    (made.record("teach", "server", 1.0), "alone has no step teach"),
])
def test_a_record_is_of_the_run(record, says):
    with pytest.raises(KdlibError, match=says):
        metrics.expect_record(record, KEY, ALONE)


def test_a_record_is_of_a_step_that_was_asked_for():
    record = made.record("train", "client-0000", 1.0)
    metrics.expect_record(record, KEY, ALONE, [Step("train", 1, "client-0000")])
    with pytest.raises(KdlibError, match="train of client-0000 in round 1, which nobody asked for"):
        metrics.expect_record(record, KEY, ALONE, [Step("train", 1, "client-0001")])


@pytest.mark.parametrize("measured", [{"accuracy": 9.3}, {"accuracy": "high"}, None, {"subject": 1.0},
                                      {"accuracy": float("nan")}])
def test_a_run_writes_no_metric_that_cannot_be_and_goes_on_once_it_is_mended(measured, tmp_path, monkeypatch):
    altered.handlers(monkeypatch, "alone", evaluate=lambda *_: measured)
    with pytest.raises(KdlibError, match="evaluate of client-0000") as error:
        runner.run(ALONE, tmp_path, progress=False)
    assert "\n" not in str(error.value)
    monkeypatch.undo()
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert {record.step for record in run.load(folder).records()} == {"train"}
    assert 0 <= runner.run(ALONE, tmp_path, progress=False).result["accuracy"] <= 1


def test_a_diverged_loss_is_warned_of_and_kept_and_the_result_is_json(tmp_path, monkeypatch, caplog):
    altered.handlers(monkeypatch, "alone", train=lambda *step: alone.train(*step) | {"loss": math.inf})
    the_run = runner.run(ALONE, tmp_path, progress=False)
    assert "loss is inf: train of client-0001 in round 2 diverged" in caplog.text
    assert (the_run.steps.query("step == 'train'")["loss"] == math.inf).all()
    json.loads((the_run.folder / "result.json").read_text(), parse_constant=pytest.fail)


def test_what_a_handler_returns_is_checked_where_it_runs(tmp_path, monkeypatch):
    altered.handlers(monkeypatch, "alone", train=lambda *_: {"loss": "low"})
    with pytest.raises(KdlibError, match=r"train of client-0000 returned no metrics: metrics\.loss"):
        perform(ALONE, None, Step("train", 1, "client-0000"))
