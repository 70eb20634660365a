import pytest

from kdlib.invoke.steps import Part, Record, Step
from kdlib.runs.progress import Progress


def record(step, seconds, around=0.0):
    return Record(run="key", round=1, step=step, subject="a", started=0.0, seconds=seconds, around=around, cold=False,
                  bytes_in=0, bytes_out=0, peak_memory=0, threads=1, backend="inline",
                  parts=(Part(step=step, round=1, seconds=seconds, metrics={}),))


STEPS = [Step("train", 1, name) for name in "abcd"] + [Step("evaluate", 1, name) for name in "ab"]


@pytest.fixture
def clock(monkeypatch):
    """Says how many seconds have passed since it was first asked for."""
    seconds = [0.0]
    monkeypatch.setattr("kdlib.runs.progress.time.monotonic", lambda: seconds[0])
    return lambda passed: seconds.__setitem__(0, passed)


def test_the_estimate_knows_that_kinds_take_different_times(clock):
    with Progress("", len(STEPS), STEPS, show=False) as progress:
        clock(10)
        progress.tick(record("train", 9.0, around=1.0))
        assert progress.seconds_left() == pytest.approx(3 * 10 + 2 * 10)  # evaluate counts like what was seen
        clock(31)
        progress.tick(record("train", 20.0))
        progress.tick(record("evaluate", 1.0))
        assert progress.seconds_left() == pytest.approx(2 * 15 + 1 * 1)


@pytest.mark.parametrize("places", [2, 3])
def test_the_estimate_knows_how_many_go_at_a_time(places, clock):
    """12 Steps of 10 seconds, `places` of them at a time: what it says is when they really end."""
    steps = [Step("train", 1, str(number)) for number in range(12)]
    with Progress("", len(steps), steps, show=False) as progress:
        for number in range(0, 12 - places, places):
            clock(10 * (number // places + 1))
            for _ in range(places):
                progress.tick(record("train", 9.0, around=1.0))
            assert progress.seconds_left() == pytest.approx(10 * (12 - number - places) / places)


def test_what_lies_between_steps_counts(clock):
    with Progress("", len(STEPS), STEPS, show=False) as progress:
        clock(20)
        progress.tick(record("train", 10.0))
        assert progress.seconds_left() == pytest.approx(5 * 20)


def test_steps_of_an_earlier_session_are_not_to_go(capsys, clock):
    with Progress("title", len(STEPS), STEPS[3:], show=True) as progress:
        clock(2)
        progress.tick(record("train", 2.0))
        assert progress.seconds_left() == pytest.approx(2 * 2)
        assert progress.bar.n == 4
    shown = capsys.readouterr().err
    assert "title" in shown and "4/6 steps" in shown


def test_it_can_be_silent(capsys):
    with Progress("title", len(STEPS), STEPS, show=False) as progress:
        progress.tick(record("train", 1.0))
    assert capsys.readouterr().err == ""
