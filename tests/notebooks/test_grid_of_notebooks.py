"""`kdlib reproduce` in the smoke profile: a grid of runs as notebooks, and the figures drawn from them."""

import csv
from pathlib import Path

import pytest

import forked
from kdlib.paper.grid import Sheet
from kdlib.paper.reproduction import execute

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def reproduce(place, *arguments):
    return forked.run("kdlib", "reproduce", "--task", "digits", "--profile", "smoke", "--runs", place / "runs",
                      "--figures", place / "figures", *arguments, cwd=ROOT, timeout=600)


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """The folder of a whole smoke grid: `kdlib reproduce` with one alpha, one seed and the faults."""
    place = tmp_path_factory.mktemp("grid")
    done = reproduce(place, "--alphas", "0.1", "--seeds", "0", "--faults")
    assert done.returncode == 0, done.stderr
    return place


def test_the_grid_executes_the_notebooks_that_read_its_runs(grid):
    executed = [path.name for path in (grid / "runs" / "notebooks").glob("*.ipynb")]
    others = {"00", "05", "07", "08", "09", "10"}
    assert {name[:2] for name in executed} == {path.name[:2] for path in NOTEBOOKS} - others
    assert len(executed) == 1 + 2 + 3 + 2, executed


def test_the_grid_leaves_its_figures_tables_and_index(grid):
    names = ["data-digits", "speedups", *(f"{name}-digits-smoke" for name in ("accuracy", "strategies", "faults"))]
    assert all((grid / "figures" / f"{name}.{kind}").stat().st_size > 2000 for name in names for kind in ("png", "svg"))
    rows = {row["figure"]: row for row in csv.DictReader((grid / "figures" / "index.csv").open())}
    keys = {path.name for path in (grid / "runs").iterdir()}
    assert set(rows) == {f"{name}.png" for name in names}
    assert set(rows["accuracy-digits-smoke.png"]["runs"].split()) <= keys
    assert len(rows["accuracy-digits-smoke.png"]["runs"].split()) == 4
    table = list(csv.DictReader((grid / "figures" / "accuracy-digits-smoke.csv").open()))
    assert len(table) == 4 and all(0 < float(row["mean"]) < 1 for row in table)


def test_a_second_call_runs_nothing_again(grid):
    def before():
        return {path: path.stat().st_mtime_ns for path in (grid / "runs").glob("*/re*/*.jsonl")}

    first = before()
    done = reproduce(grid, "--alphas", "0.1", "--seeds", "0", "--only", "02_fedmd", "--only", "03_feddf")
    assert done.returncode == 0, done.stderr
    assert before() == first


@pytest.mark.parametrize(("notebook", "more", "figures"), [
    ("05_time", {}, ["time", "timeline-fedmd", "timeline-feddf", "selection"]),
    ("07_cost", {"per_round": [3, 6]}, ["cost"]),
])
def test_time_and_cost_are_told_of_the_same_runs(notebook, more, figures, grid):
    places = {"runs": str(grid / "runs"), "figures": str(grid / "figures")}
    execute(Sheet(notebook, {"profile": "smoke", "alphas": [0.1]} | places | more), ROOT / "notebooks", grid)
    assert all((grid / "figures" / f"{name}-digits-smoke.png").stat().st_size > 2000 for name in figures)


@pytest.mark.parametrize(("arguments", "word"), [
    (["--alphas", "100 x"], "--alphas"), (["--seeds", ""], "--seeds"), (["--alphas", "-1"], "alpha"),
    (["--task", "absent.toml"], "absent.toml"), (["--notebooks", "kdlib"], "holds no notebooks"),
])
def test_a_mistake_is_told_before_anything_runs(arguments, word, tmp_path):
    done = reproduce(tmp_path, *arguments)
    assert done.returncode == 2 and word in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not (tmp_path / "runs").exists()
