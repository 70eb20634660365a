"""Cold starts are measured on real processes; how long they take is for `python -m faas coldstart` to say."""

import tempfile
from pathlib import Path

import pandas as pd
import psutil
import pytest

from faas.local import coldstart
from faas.local.coldstart import GOALS, load, measure
from kdlib.errors import KdlibError
from kdlib.reports.figures import coldstarts


@pytest.fixture(scope="module")
def found():
    return measure(starts=1)


def test_a_first_answer_takes_its_start_its_step_and_little_else(found):
    assert list(found.cold) == ["communicate", "train"]
    for cold in found.cold.values():
        assert 0 < cold.listening.median + cold.work.median < cold.answered.median
    # Lightning is imported in the second; a warm call imports nothing.
    assert found.cold["train"].work.median > found.cold["communicate"].work.median
    assert 0 < found.warm.median < found.cold["communicate"].listening.median
    assert found.how == "process" and found.starts == 1 and found.machine["cores"]


def test_nothing_stays(found):
    assert list(Path(tempfile.gettempdir()).glob("kdlib-coldstart-*")) == []
    children = psutil.Process().children(recursive=True)
    assert not any("faas.function.server" in (child.cmdline() or ()) for child in children)


def test_it_is_kept_read_and_drawn(found, tmp_path):
    kept = tmp_path / "coldstart-process.json"
    kept.write_text(found.model_dump_json())
    assert load(kept) == found
    assert "cold starts of a process" in found.text() and len(found.text().splitlines()) == 4
    table = pd.concat([found.rows(), found.rows().assign(how="container")], ignore_index=True)
    figure = coldstarts(table, GOALS, "title")
    (axis,) = figure.axes
    assert [label.get_text() for label in axis.get_yticklabels()] == [
        f"{step}\n{how}" for how in ("process", "container") for step in ("communicate", "train")]
    for row, bar in table.iterrows():  # the parts of a bar, medians of several starts, end about where the answer came
        ends = [patch.get_x() + patch.get_width() for patch in axis.patches if abs(patch.get_y() + 0.4 - row) < 0.01]
        assert max(ends) == pytest.approx(bar["answered"], rel=0.1)


@pytest.mark.parametrize("text", [None, "text", "{}"])
def test_what_is_no_measurement_is_told(text, tmp_path):
    path = tmp_path / "coldstart-process.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(KdlibError, match="holds no cold starts; make it with `python -m faas coldstart --json"):
        load(path)


def test_an_image_that_is_not_there_is_told(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(KdlibError, match="--docker needs Docker's command"):
        coldstart.measure(docker=True)
