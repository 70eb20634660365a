import pytest

from kdlib.invoke.steps import Record, Step
from kdlib.runs.progress import Progress


def record(step, seconds, around=0.0):
    return Record(run="key", round=1, step=step, subject="a", started=0.0, seconds=seconds, around=around, cold=False,
                  bytes_in=0, bytes_out=0, peak_memory=0, threads=1, backend="inline", parts=())


STEPS = [Step("train", 1, name) for name in "abcd"] + [Step("evaluate", 1, name) for name in "ab"]


def test_the_estimate_knows_that_kinds_take_different_times():
    with Progress("", len(STEPS), STEPS, show=False) as progress:
        progress.tick(record("train", 9.0, around=1.0))
        assert progress.seconds_left() == pytest.approx(3 * 10 + 2 * 10)  # evaluate counts like what was seen
        progress.tick(record("train", 20.0))
        progress.tick(record("evaluate", 1.0))
        assert progress.seconds_left() == pytest.approx(2 * 15 + 1 * 1)


def test_steps_of_an_earlier_session_are_not_to_go(capsys):
    with Progress("title", len(STEPS), STEPS[3:], show=True) as progress:
        progress.tick(record("train", 2.0))
        assert progress.seconds_left() == pytest.approx(2 * 2)
        assert progress.bar.n == 4
    shown = capsys.readouterr().err
    assert "title" in shown and "4/6 steps" in shown


def test_it_can_be_silent(capsys):
    with Progress("title", len(STEPS), STEPS, show=False) as progress:
        progress.tick(record("train", 1.0))
    assert capsys.readouterr().err == ""
