import numpy as np
import pytest

from kdlib.settings.vocabulary import CHARACTERS, OUTPUTS, UNKNOWN, encode


def test_there_are_eighty_characters_and_two_numbers_more():
    assert len(CHARACTERS) == len(set(CHARACTERS)) == 80 and OUTPUTS == 82
    assert list(CHARACTERS) == sorted(CHARACTERS)
    assert encode(CHARACTERS).tolist() == list(range(2, 82)) and encode(CHARACTERS).dtype == np.uint8


@pytest.mark.parametrize("character", ["_", "=", "ä", "æ", "ë", "é", "Æ", "$", "{", "\t", "\x7f", "\0", "\u201d",
                                       "\U0001f3ad", "\ud800"])
def test_what_is_no_character_of_the_vocabulary_is_unknown(character):
    assert encode(f"a{character}b").tolist() == [*encode("a"), UNKNOWN, *encode("b")]


def test_nothing_is_nothing():
    assert encode("").tolist() == []
