"""Every notebook runs from top to bottom in the smoke profile, and is as it should be on paper."""

import ast
import json
from pathlib import Path

import nbformat
import pytest

from kdlib.errors import KdlibError
from kdlib.paper.grid import Sheet
from kdlib.paper.reproduction import execute

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def test_quickstart(tmp_path):
    made = execute(Sheet("00_quickstart", {"rounds": 2, "runs": str(tmp_path / "runs")}), ROOT / "notebooks", tmp_path)
    outputs = [output for cell in nbformat.read(made, 4).cells for output in cell.get("outputs", ())]
    assert outputs and not any(output.output_type == "error" for output in outputs)
    pages = [output.data["text/html"] for output in outputs if "text/html" in output.get("data", ())]
    below_the_run = next(page for page in pages if "digits feddf alpha 1 seed 0: round " in page)
    assert "round 2 of 2" in below_the_run, "the table below the cell went on with the run"


def test_the_ten_questions_are_answered_from_what_is_here(tmp_path):
    execute(Sheet("09_ten_questions", {}), ROOT / "notebooks", tmp_path)


def test_your_own_runs(tmp_path, monkeypatch):
    monkeypatch.delenv("KDLIB_DATA", raising=False)
    places = {name: str(tmp_path / name) for name in ("runs", "figures")}
    execute(Sheet("10_your_own", {"rounds": 2, "exchanges": 3, **places}), ROOT / "notebooks", tmp_path)
    assert len((tmp_path / "figures" / "modalities.csv").read_text().splitlines()) == 5


def test_texts_have_their_own_first_notebook_and_the_same_later_ones(own_texts, tmp_path, monkeypatch):
    """On texts of one's own, whose titles tell no alpha; 04 is drawn from records, see test_figures."""
    monkeypatch.setenv("KDLIB_DATA", str(own_texts))
    task = str(own_texts / "own.toml")
    for notebook, parameters in (("01_roles", {"clients": 4, "figures": str(tmp_path / "figures")}),
                                 ("02_fedmd", {"alpha": None, "profile": "smoke", "runs": str(tmp_path / "runs")}),
                                 ("05_retraining", {"profile": "smoke", "seeds": [0], "turns": 1,
                                                    "runs": str(tmp_path / "runs"),
                                                    "figures": str(tmp_path / "figures")})):
        made = execute(Sheet(notebook, {"task": task, **parameters}), ROOT / "notebooks", tmp_path)
        assert made.name.startswith(f"{notebook}-own")
    for figure in ("data-own", "retraining-feddf-own-smoke"):
        assert (tmp_path / "figures" / f"{figure}.png").stat().st_size > 2000


def test_an_unknown_parameter_is_an_error(tmp_path):
    with pytest.raises(KdlibError, match=r"02_fedmd.ipynb has no parameter aplha; allowed: task, alpha"):
        execute(Sheet("02_fedmd", {"aplha": 1}), ROOT / "notebooks", tmp_path)


@pytest.mark.parametrize(("notebook", "runs"), [("04_accuracy", 8), ("05_time", 8), ("07_cost", 6)])
def test_missing_runs_are_named_with_the_command_that_makes_them(notebook, runs, tmp_path):
    with pytest.raises(KdlibError, match=rf"{runs} of {runs} runs are not in .* make them with `kdlib reproduce"):
        execute(Sheet(notebook, {"runs": str(tmp_path)}), ROOT / "notebooks", tmp_path)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_thin_taught_and_committed_with_its_outputs(path):
    book = nbformat.read(path, 4)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert len(book.cells) <= 25
    assert 3 * (len(book.cells) - len(code)) >= len(book.cells), "prose, a cell, a check"
    assert any("assert" in cell.source for cell in code), "a check"
    assert any("**Prediction" in cell.source for cell in book.cells), "a prediction"
    assert any("**Where next.**" in cell.source for cell in book.cells)
    assert all(cell.execution_count for cell in code), "executed from top to bottom"
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not any(output.output_type == "error" for cell in code for output in cell.outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_parameters_and_functions_are_plain(path):
    cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    marked = [cell for cell in cells if "parameters" in cell.metadata.get("tags", ())]
    assert len(marked) == 1
    assert all(isinstance(node, ast.Assign) for node in ast.parse(marked[0].source).body), "unannotated names"
    assert all("  # " in line for line in marked[0].source.splitlines()), "each says what it is, and papermill, too"
    nodes = [node for cell in cells for node in ast.walk(ast.parse(cell.source))]
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    assert all(node.end_lineno - node.lineno < 10 for node in functions)
    assert str(ROOT) not in json.dumps(nbformat.read(path, 4)), "no machine's path"
