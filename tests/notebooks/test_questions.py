"""Every answer of 09_ten_questions names what it stands on, and that is there; its numbers are checked in its cells."""

import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
CELLS = [cell.source for cell in nbformat.read(ROOT / "notebooks/09_ten_questions.ipynb", 4).cells]
ANSWERS = [source for source in CELLS if re.match(r"## \d+\. ", source)]


def test_there_are_ten_and_evidence_follows_each():
    assert [int(re.match(r"## (\d+)", answer)[1]) for answer in ANSWERS] == list(range(1, 11))
    for answer in ANSWERS:
        assert "assert" in CELLS[CELLS.index(answer) + 1], answer.splitlines()[0]


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: answer.splitlines()[0][3:])
def test_what_an_answer_stands_on_is_there(answer):
    named = re.findall(r"`([^`]+)`", answer.split("**Stands on:**")[1])
    assert named and all((ROOT / name).is_file() for name in named), named


def test_no_number_of_ours_stands_in_the_text():
    """They come from the cells, or they would not change with the records."""
    ours = [re.findall(r"(?<!\d)\d*\.\d+(?:x|\b)", answer.split("\n\n", 1)[1]) for answer in ANSWERS]
    assert [number for numbers in ours for number in numbers] == []
