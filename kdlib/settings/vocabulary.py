"""The characters that a text is made of, as numbers (PAPER: Tasks)."""

import functools
import string

import numpy as np

CHARACTERS = "\n !\"&'(),-." + string.digits + ":;>?" + string.ascii_uppercase + "[]" + string.ascii_lowercase + "}"
UNKNOWN, FIRST = 1, 2  # 0 is padding; the 80 characters are 2 to 81
OUTPUTS = FIRST + len(CHARACTERS)


def encode(text: str, characters: str = CHARACTERS) -> np.ndarray:
    """Each character's number, FIRST + its place in `characters`, or UNKNOWN where it has none.

    (characters of the text,), uint8 where that holds all numbers, else the next larger unsigned integers.
    """
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    numbers = _numbers(characters)
    found: np.ndarray = numbers[np.minimum(codes, len(numbers) - 1)]
    return found


@functools.lru_cache(maxsize=8)
def _numbers(characters: str) -> np.ndarray:
    """Code -> number, up to the highest code; the last one stands for all others."""
    codes = [ord(character) for character in characters]
    numbers = np.full(max(codes) + 2, UNKNOWN, np.min_scalar_type(FIRST + len(characters) - 1))
    numbers[codes] = np.arange(FIRST, FIRST + len(characters))
    return numbers
