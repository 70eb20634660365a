"""Texts in another alphabet, with other line ends, or in a vocabulary of the task's own."""

import gzip
import json

import numpy as np
import pytest
import torch

import forked
from kdlib.data import sets
from kdlib.errors import KdlibError
from kdlib.learning.engine import accuracy
from kdlib.runs import runner
from kdlib.settings.experiment import make_experiment
from kdlib.settings.task import Source, Task, Text

CYRILLIC = "абвгдежзийклмнопрстуфхцчшщъыьэюя .,\n"


def relettered(folder, characters):
    """The made texts with other letters, and a task of them."""
    letters = str.maketrans({old: characters[number % len(characters)]
                             for number, old in enumerate("abcdefghijklmnopqrstuvwyPLAROE")})
    with gzip.open(folder / "plays.json.gz", "rt") as file:
        roles = {name: said.translate(letters) for name, said in json.load(file).items()}
    return roles, (folder / "book.txt").read_text().translate(letters)


@pytest.fixture
def written(own_texts, tmp_path, monkeypatch):
    """Write the made texts with other letters, and a task's file with `more` in it; make an Experiment on them."""
    def made(characters=None, ends="\n", mark="", strategy="alone", more="", **settings):
        roles, book = relettered(own_texts, characters) if characters else relettered(own_texts, "abcdefghijklmnopq")
        roles = {name: mark + said.replace(". ", "\n").replace("\n", ends) for name, said in roles.items()}
        place = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        place.mkdir()
        with gzip.open(place / "plays.json.gz", "wt", encoding="utf-8") as file:
            json.dump(roles, file)
        (place / "book.txt").write_bytes((mark + book.replace(". ", "\n").replace("\n", ends)).encode())
        (place / "own.toml").write_text(more + (own_texts / "own.toml").read_text())
        monkeypatch.setenv("KDLIB_DATA", str(place))
        return make_experiment(str(place / "own.toml"), strategy, profile="smoke", clients=3,
                               architectures=["lstm1-8"], **settings)

    return made


@pytest.mark.parametrize(("ends", "mark"), [("\r\n", ""), ("\r", ""), ("\n", "\ufeff"), ("\r\n", "\ufeff")])
def test_line_ends_and_a_byte_order_mark_make_no_difference(ends, mark, written):
    plain, other = sets.prepare(written()), sets.prepare(written(ends=ends, mark=mark))
    assert other.hashes == plain.hashes and other.unknown == plain.unknown == {"private": 0.0, "public": 0.0}


def test_texts_of_another_alphabet_are_refused_unless_they_are_asked_for(written):
    with pytest.raises(KdlibError, match="% of the characters of private plays are not in the vocabulary of task own; "
                                         "allowed: 10%, or another `characters` or a larger `unknown` in the task"):
        sets.prepare(written(CYRILLIC[:32]))
    drawn = sets.prepare(written(CYRILLIC[:32], more="unknown = 1.0\n"))
    assert drawn.unknown["private"] > 0.5 and drawn.notes and (drawn.private.x == 1).mean() > 0.5


def test_a_vocabulary_of_the_tasks_own_knows_them_all(written, tmp_path):
    chosen = written(CYRILLIC[:32], more=f"characters = {json.dumps(CYRILLIC + '!', ensure_ascii=False)}\n", rounds=1)
    drawn = sets.prepare(chosen)
    assert drawn.unknown == {"private": 0.0, "public": 0.0} and not (drawn.private.x == 1).any()
    assert drawn.private.x.max() < chosen.task.vocabulary == 2 + len(CYRILLIC) + 1 and drawn.private.x.dtype == np.int8
    ran = runner.run(chosen, tmp_path / "runs", progress=False)
    assert ran.result and ran.data == {"notes": [], "unknown": drawn.unknown}


def test_a_vocabulary_of_many_characters_is_told_from_pixels(written):
    many = "".join(map(chr, range(0x4E00, 0x4E00 + 300)))
    chosen = written(many[:17], more=f"characters = {json.dumps(many + ' .,!', ensure_ascii=False)}\n")
    drawn = sets.prepare(chosen)
    assert drawn.private.x.dtype == np.int16 and drawn.private.x.max() < chosen.task.vocabulary


def test_unknown_is_never_a_right_answer(written):
    class Always(torch.nn.Module):
        def forward(self, x):
            return torch.nn.functional.one_hot(torch.ones(len(x), dtype=torch.long), 82).float()

    chosen = written()
    x, y = torch.ones(4, 20, dtype=torch.int8), torch.tensor([1, 1, 1, 5])
    assert accuracy(chosen, Always(), x, y) == 0.0
    tokens = chosen.model_copy(update={"task": Task(
        name="words", items="text", shape=(20,), vocabulary=82, private=Source(name="a", classes=(0,)),
        public=Source(name="b"))})
    assert accuracy(tokens, Always(), x, y) == 0.75, "other tokens' 1 is one like others"


def test_partition_shows_what_the_vocabulary_lacks(written, tmp_path):
    chosen = written(CYRILLIC[:32], more="unknown = 1.0\n")
    (task,) = sets.folder().glob("*.toml")
    done = forked.run("kdlib", "partition", "--task", task, "--clients", "3", cwd=tmp_path)
    share = sets.prepare(chosen).unknown
    said = f"lacks: {share['private']:.2%} of the private text, {share['public']:.2%} of the public text"
    assert done.returncode == 0 and f"characters that the vocabulary {said}" in done.stdout


def test_windows_that_leave_none_to_train_on_are_one_line(written, tmp_path):
    chosen = written(rounds=1, strategy="fedmd")
    task = chosen.task.model_copy(update={"public": Text(name="book", step=1, items=10)})
    with pytest.raises(KdlibError, match="public has 10 windows, of which none is left to train on beside those"):
        runner.run(chosen.model_copy(update={"task": task}), tmp_path / "runs", progress=False)
