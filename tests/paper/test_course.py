"""Handouts: the notebooks that teach, less what a class should find by itself."""

from pathlib import Path

import nbformat
import pytest

from kdlib.errors import KdlibError
from kdlib.paper.course import handout

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


def cells(folder):
    return {path.name: nbformat.read(path, 4).cells for path in sorted(folder.glob("*.ipynb"))}


def without(source):
    """The text less its folded parts and the empty lines before them."""
    left = ""
    while "<details>" in source:
        before, _, rest = source.partition("<details>")
        left, source = left + before.rstrip("\n"), rest.partition("</details>")[2]
    return left + source


def test_solutions_and_outputs_are_left_out_and_nothing_else(tmp_path):
    made, ours = handout(NOTEBOOKS, tmp_path / "class"), cells(NOTEBOOKS)
    copies = cells(tmp_path / "class")
    assert copies.keys() == ours.keys() == {path.name for path in made}
    for name, theirs in copies.items():
        assert any("<summary>Solution" in cell.source for cell in ours[name]), f"{name} has no exercise with a solution"
        for cell, own in zip(theirs, ours[name], strict=True):
            assert "Solution" not in cell.source and not cell.get("outputs") and not cell.get("execution_count")
            assert cell.source == without(own.source)


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(KdlibError, match="is there already; allowed: a new folder"):
        handout(NOTEBOOKS, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_folder_without_notebooks_is_told(tmp_path):
    with pytest.raises(KdlibError, match="holds no notebooks"):
        handout(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
