"""Texts as windows of characters, each with the character that follows it; a role a client (PAPER: Tasks)."""

import functools
import gzip
import hashlib
import json
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kdlib.data.leaf import as_one_line
from kdlib.data.splits import RunData, Split, held_out, joined, recent, sha256, some, spread
from kdlib.errors import KdlibError
from kdlib.files import content, expect_file
from kdlib.settings.experiment import Experiment
from kdlib.settings.task import TextTask
from kdlib.settings.vocabulary import CHARACTERS, FIRST, OUTPUTS, UNKNOWN, encode

STRANGE = 0.1  # of a client's characters: a larger share that the vocabulary lacks is told
LARGEST = 2**28  # bytes of a file, unpacked: Shakespeare's plays have five million


class Windows(NamedTuple):
    """A text's windows of `size` characters, the next one `step` characters on.

    text: numbers of a vocabulary of so many.
    """

    text: np.ndarray
    size: int
    step: int = 1
    vocabulary: int = OUTPUTS

    @property
    def number(self) -> int:
        """How many windows there are that a character follows."""
        return max(0, -(-(len(self.text) - self.size) // self.step))

    @property
    def by_time(self) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of a role's windows that train, and that test, as LEAF splits them in time.

        The first nine tenths train; size - 1 windows after them are left out, so that none overlaps one that tests.
        """
        train = int(0.9 * self.number)
        return np.arange(train), np.arange(train + self.size - 1, self.number)

    def take(self, numbers: np.ndarray) -> Split:
        """The windows of these numbers."""
        at = numbers.astype(np.int64) * self.step
        kind = np.min_scalar_type(-self.vocabulary)  # signed, which tells tokens from pixels
        if not len(at):  # the text may be too short for any
            return Split(np.empty((0, self.size), kind), at, at)
        x = np.lib.stride_tricks.sliding_window_view(self.text, self.size)[at]
        return Split(x.astype(kind), self.text[at + self.size].astype(np.int64), at)


def read_roles(path: Path, size: int, characters: str = CHARACTERS) -> dict[str, Windows]:
    """Role -> its windows, by name, from a gzipped JSON object {role: its lines}, which LEAF makes one line.

    Raises KdlibError where the file is damaged or of another form.
    """
    try:
        expect_file(path)
        with gzip.open(path) as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise KdlibError(f"{path} unpacks to more than {LARGEST >> 20} MiB; allowed: less")
        roles = json.loads(content)
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise KdlibError(f"{path} is damaged or no gzipped JSON: {' '.join(str(error).split())}") from error
    if not isinstance(roles, dict) or not all(isinstance(lines, str) for lines in roles.values()):
        raise KdlibError(f"{path} must hold one JSON object {{role: its lines}}, both texts")
    return {role: Windows(encode(as_one_line(_plain(lines)), characters), size, 1, FIRST + len(characters))
            for role, lines in sorted(roles.items())}


def read_text(path: Path, size: int, step: int, characters: str = CHARACTERS) -> tuple[Windows, float]:
    """The windows of a UTF-8 text without the characters that the vocabulary lacks, and the share of those, 0-1.

    Raises KdlibError where it is no such text.
    """
    try:
        text = encode(_plain(content(path, LARGEST).decode()), characters)
    except (OSError, UnicodeDecodeError) as error:
        raise KdlibError(f"{path} is no UTF-8 text: {error}") from error
    return Windows(text[text != UNKNOWN], size, step, FIRST + len(characters)), _unknown([text])


def _plain(text: str) -> str:
    """Without a byte-order mark, and lines that end as on Linux."""
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def _unknown(texts: list[np.ndarray]) -> float:
    return sum(int(np.count_nonzero(text == UNKNOWN)) for text in texts) / max(1, sum(map(len, texts)))


def _expect_known(task: TextTask, shares: dict[str, float]) -> None:
    """Raises KdlibError where the vocabulary lacks more of a text than the task bears."""
    for name, share in shares.items():
        if share > task.unknown:
            raise KdlibError(f"{share:.0%} of the characters of {name} are not in the vocabulary of task {task.name}; "
                             f"allowed: {task.unknown:.0%}, or another `characters` or a larger `unknown` in the task")


def prepare(experiment: Experiment, private: Path, public: Path) -> RunData:
    """Roles drawn by seed are the clients, each with train and test windows of its own; other roles are validated on.

    Of the public text's windows the first four fifths train, and of those the first `items` of the task.
    Raises KdlibError where there are too few roles.
    """
    task, rng = experiment.task, functools.partial(experiment.rng, 0)
    assert isinstance(task, TextTask)
    roles = read_roles(private, task.window, task.characters)
    text, dropped = read_text(public, task.window, task.public.step, task.characters)
    able = [role for role, windows in roles.items() if len(windows.by_time[1]) >= task.private.least_test]
    if len(able) <= experiment.clients:
        raise KdlibError(f"{len(able)} of {len(roles)} roles have {task.private.least_test} test windows, and one must "
                         f"be left to validate on; allowed: clients up to {max(0, len(able) - 1)}")
    order = [able[index] for index in rng("server", "roles").permutation(len(able))]
    clients, others = order[: experiment.clients], order[experiment.clients :]
    unknown = {"private": _unknown([roles[role].text for role in order]), "public": dropped}
    _expect_known(task, {f"private {task.private.name}": unknown["private"], f"public {task.public.name}": dropped})
    strange = {role: share for role in clients if (share := _unknown([roles[role].text])) > STRANGE}

    parts: list[Split] = []
    tests: list[Split] = []
    for number, (client, role) in enumerate(zip(experiment.client_names, clients, strict=True)):
        train, test = roles[role].by_time
        for splits, numbers in ((parts, _of_own(experiment, train, rng(client, "windows"))),
                                (tests, some(test, experiment.test_items, rng(client, "test")))):
            taken = roles[role].take(numbers)
            splits.append(taken._replace(owner=np.full(len(taken.y), number)))
    shared = np.arange(int(0.8 * text.number))[: task.public.items]
    whole = "".join(f"{role} {sha256(windows.text)}\n" for role, windows in roles.items())
    return RunData(
        private=joined(parts),
        validation=_across([roles[role] for role in others], held_out(experiment),
                           rng("server", "validation")),
        test=joined(tests),
        public=text.take(some(shared, experiment.setting("public_items"), rng("server", "public"))),
        hashes={"private": hashlib.sha256(whole.encode()).hexdigest(), "public": sha256(text.text)},
        roles=tuple(clients), able=len(able), unknown=unknown,
        notes=tuple(f"{share:.0%} of the characters of role {role} are not in the vocabulary"
                    for role, share in strange.items()),
    )


def _of_own(experiment: Experiment, train: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A client's training windows; question 9: which of them are worth their time?"""
    if experiment.windows == "recent":
        return recent(train, experiment.samples)
    if experiment.windows == "spread":
        return spread(train, experiment.samples)
    return some(train, experiment.samples, rng)


def _across(texts: list[Windows], most: int | None, rng: np.random.Generator) -> Split:
    """`most` windows of all the texts together; drawn before any is made, as all of them are millions."""
    starts = np.cumsum([0, *(windows.number for windows in texts)])
    pieces = np.split(numbers := some(np.arange(starts[-1]), most, rng), np.searchsorted(numbers, starts[1:-1]))
    return joined([windows.take(piece - start) for windows, piece, start in zip(texts, pieces, starts, strict=False)])
