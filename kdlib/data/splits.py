"""What a run takes of a data set: items with their labels, drawn by seed, hashed before they are."""

import hashlib
from typing import NamedTuple

import numpy as np


class Split(NamedTuple):
    """x: uint8 (N, height, width[, channels]) or, of texts, int8 (N, window); y: int64 (N,).

    at: int64 (N,), where in its text each window begins; owner: int64 (N,), the number of the client whose role's it
    is. None for images, which have no order, and which kdlib.data.partition shares out.
    """

    x: np.ndarray
    y: np.ndarray
    at: np.ndarray | None = None
    owner: np.ndarray | None = None

    def take(self, rows) -> "Split":
        """The items at `rows`, in that order."""
        return Split(*(None if array is None else array[rows] for array in self))


class RunData(NamedTuple):
    """What a run uses. Labels are the task's: private 0 .. P-1, public P .. P+Q-1; of texts, the vocabulary's.

    private: what the clients share out; validation: FedDF's, the server's alone; test: the private test set; public:
    the public training set; hashes: name -> SHA-256 of everything above before any of it was drawn; roles: each
    client's, where clients are roles.
    """

    private: Split
    validation: Split
    test: Split
    public: Split
    hashes: dict[str, str]
    roles: tuple[str, ...] = ()


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


def sha256(array: np.ndarray) -> str:
    """Of dtype, shape and bytes in C order."""
    head = f"{array.dtype.str}{array.shape}".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()
