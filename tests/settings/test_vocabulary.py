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


def test_characters_of_ones_own_are_numbered_from_2_on():
    assert encode("жзджx", "джз").tolist() == [3, 4, 2, 3, UNKNOWN] and encode("ж", "джз").dtype == np.uint8
    many = "".join(map(chr, range(0x4E00, 0x4E00 + 400)))
    assert encode(many, many).tolist() == list(range(2, 402)) and encode(many, many).dtype == np.uint16
    assert encode("\U0010ffff", "a\U0010ffff").tolist() == [3] and encode("\U0010ffffb", "ac").tolist() == [1, 1]
