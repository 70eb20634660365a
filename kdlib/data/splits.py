"""What a run takes of a data set: items with their labels, drawn by seed, hashed before they are."""

import hashlib
from typing import Any, NamedTuple

import numpy as np

from kdlib.settings.experiment import Experiment


class Split(NamedTuple):
    """x: (N, ...) of uint8, float32, or integers, which are tokens; y: int64 (N,).

    at: int64 (N,), where in its text each window begins, None where items have no order; owner: int64 (N,), the number
    of the client whose it is, None where kdlib.data.partition shares the items out.
    """

    x: np.ndarray
    y: np.ndarray
    at: np.ndarray | None = None
    owner: np.ndarray | None = None

    def take(self, rows: np.ndarray) -> "Split":
        """The items at `rows`, in that order."""
        return Split(self.x[rows], self.y[rows], None if self.at is None else self.at[rows],
                     None if self.owner is None else self.owner[rows])


class DataSet(NamedTuple):
    """One data set with its own labels, from 0; -1 of items without one. `owner` holds what the data call the owner."""

    train: Split
    test: Split


class RunData(NamedTuple):
    """What a run uses. Labels are the task's: private 0 .. P-1, public P .. P+Q-1, unlabelled -1;
    of texts by roles, the vocabulary's.

    private: what the clients share out; validation: the server's alone; test: the private test set; public:
    the public training set; hashes: name -> SHA-256 of everything above before any of it was drawn; roles: each
    client's owner, where the data name them; able: how many owners might be clients; notes: what is strange about the
    data, a line each; unknown: `private`, `public` -> the share, 0-1, of a text's characters that the vocabulary lacks.
    """

    private: Split
    validation: Split
    test: Split
    public: Split
    hashes: dict[str, str]
    roles: tuple[str, ...] = ()
    able: int = 0
    notes: tuple[str, ...] = ()
    unknown: dict[str, float] = {}  # noqa: RUF012  # never changed


def held_out(experiment: Experiment) -> int | None:
    """Items to validate on, of owners that are no clients: None takes all; none where no server scores."""
    return experiment.setting("validation_items") if "validation_items" in type(experiment).model_fields else 0


def some(numbers: np.ndarray, most: int | None, rng: np.random.Generator) -> np.ndarray:
    """All the numbers, or `most` of them drawn at random, in their order."""
    if most is None or most >= len(numbers):
        return numbers
    return numbers[np.sort(rng.choice(len(numbers), most, replace=False))]


def recent(numbers: np.ndarray, most: int | None) -> np.ndarray:
    """All the numbers, or the last `most`."""
    return numbers[-most:] if most else numbers


def spread(numbers: np.ndarray, most: int | None) -> np.ndarray:
    """All the numbers, or `most` of them at even distances, the first and the last among them."""
    if most is None or most >= len(numbers):
        return numbers
    return numbers[np.linspace(0, len(numbers) - 1, most).astype(np.int64)]


def joined(splits: list[Split]) -> Split:
    """One after the other."""
    arrays: list[Any] = [None if of_each[0] is None else np.concatenate(of_each)  # Any: x and y are never None
                         for of_each in zip(*splits, strict=True)]
    return Split(*arrays)


def sha256(array: np.ndarray) -> str:
    """Of dtype, shape and bytes in C order."""
    head = f"{array.dtype.str}{array.shape}".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()
