"""`kdlib reproduce` where paths are relative, linked, have blanks or one name: figures are where they belong."""

import csv
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import forked
from kdlib.errors import KdlibError
from kdlib.paper.grid import Grid, plan

ROOT = Path(__file__).parents[2]
TASK = """name = "own"
shape = [8, 8]

[private]
name = "marks"
classes = [0, 1]

[public]
name = "marks"
classes = [2]
"""


@pytest.fixture
def place(tmp_path):
    """A folder with data, two tasks of one name, and notebooks/ as a link to a folder elsewhere."""
    rng = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    x, y = rng.integers(0, 256, (72, 8, 8), dtype=np.uint8), np.arange(72) % 3
    np.savez(tmp_path / "data/marks.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    for name in ("my tasks", "v1", "v2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "own.toml").write_text(TASK)
    (tmp_path / "elsewhere/deep").mkdir(parents=True)
    shutil.copytree(ROOT / "notebooks", tmp_path / "elsewhere/deep/notebooks")
    (tmp_path / "notebooks").symlink_to(tmp_path / "elsewhere/deep/notebooks")
    return tmp_path


def reproduce(place, *arguments, **variables):
    environment = {name: value for name, value in os.environ.items() if name not in ("KDLIB_DATA", "KDLIB_PLUGINS")}
    return forked.run("kdlib", "reproduce", "--profile", "smoke", "--only", "01_data_heterogeneity", *arguments,
                      cwd=place, environment=environment | variables, timeout=200)


def test_relative_places_are_meant_from_where_the_command_was_given(place):
    (place / "more.py").write_text("")
    done = reproduce(place, "--task", "my tasks/own.toml", "--runs", "runs {seed}", "--figures", "figures",
                     KDLIB_DATA="data", KDLIB_PLUGINS="more.py")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (place / "figures").iterdir() if path.suffix != ".lock"} >= {
        "data-own.png", "data-own.svg", "data-own.csv", "index.csv"}
    (row,) = csv.DictReader((place / "figures/index.csv").open())
    assert row["command"] == "kdlib reproduce --task 'my tasks/own.toml'"
    assert [path.name for path in (place / "runs {seed}/notebooks").iterdir()] == [
        "01_data_heterogeneity-own-0.ipynb"]
    assert {path.name for path in (place / "elsewhere/deep").iterdir()} == {"notebooks"}, "something lies beside it"


@pytest.mark.parametrize(("arguments", "said"), [
    (("--tasks", "v1/own.toml v2/own.toml"), "the figures of v1/own.toml and v2/own.toml would have the same names"),
    (("--tasks", "digits digits"), "the figures of digits and digits would have the same names"),
    (("--tasks", "v1/own.toml 'own"), "No closing quotation; allowed: names separated by blanks"),
    (("--seeds", "0 0"), "--seeds names 0 twice; allowed: each once"),
    (("--seeds", "0 -1"), "seed"),
    (("--alphas", "1 1.0"), "--alphas names 1.0 twice; allowed: each once"),
    (("--runs", "s3://bucket/runs"), "is a URL, and runs lie in a folder"),
])
def test_what_would_overwrite_or_count_twice_is_refused_in_one_line(arguments, said, place):
    done = reproduce(place, *arguments, KDLIB_DATA="data")
    assert done.returncode == 2 and said in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not (place / "runs").exists() and not (place / "s3:").exists()


def test_a_grid_of_python_refuses_what_counts_twice_too():
    with pytest.raises(KdlibError, match="--seeds names 3 twice"):
        plan([Grid("digits", "smoke", [1.0], [3, 3])], ROOT / "notebooks", Path("runs"), Path("figures"))


def test_a_commands_task_is_named_from_where_it_was_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Grid.call("digits") == "kdlib reproduce --task digits"
    assert Grid.call(str(tmp_path / "a b/own.toml")) == "kdlib reproduce --task 'a b/own.toml'"
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    monkeypatch.setenv("KDLIB_CALLED_FROM", str(tmp_path))
    assert Grid.call("../own.toml") == "kdlib reproduce --task own.toml"
