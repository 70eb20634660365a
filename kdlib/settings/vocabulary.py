"""The characters that a text is made of, as numbers (PAPER: Tasks)."""

import string

import numpy as np

CHARACTERS = "\n !\"&'(),-." + string.digits + ":;>?" + string.ascii_uppercase + "[]" + string.ascii_lowercase + "}"
UNKNOWN, FIRST = 1, 2  # 0 is padding; the 80 characters are 2 to 81
OUTPUTS = FIRST + len(CHARACTERS)

_NUMBER = np.full(128, UNKNOWN, np.uint8)
_NUMBER[[ord(character) for character in CHARACTERS]] = np.arange(FIRST, OUTPUTS)


def encode(text: str) -> np.ndarray:
    """uint8 (characters,): each one's number, UNKNOWN where it has none."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    # 127 is no character of the vocabulary, nor is any code above it.
    numbers: np.ndarray = _NUMBER[np.minimum(codes, 127)]
    return numbers
