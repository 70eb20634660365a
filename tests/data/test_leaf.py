"""LEAF's law on plays set by hand, and on the real roles set as plays again."""

import gzip
import json
from collections import defaultdict

import pytest

from kdlib.data import leaf, sets

SONNETS = "a title\n\nTHE SONNETS\n\nby William Shakespeare\n\n  I. A line of verse\n    and one more.\n"
LONG = "that goes on for quite a while, until there is a window of it to be had, and then some more"

PLAY = f"""

THE TRAGEDY OF NOBODY, PRINCE OF NOTHING


by William Shakespeare



Dramatis Personae
  NOBODY. Prince

ACT I. SCENE 1.

  Nobody. A speech
    {LONG}.
                                                    Exit
    It goes on after what nobody says.
  Some One. Too short.
  NOBODY. And again. Sir!
 Not this.
   Nor this.
  First Lord. One line,
    a second,
    {LONG}.
<<THIS IS THE PUBLISHER>>
    And on.
"""

COMEDY = f"""

THE COMEDY OF ERRORS


by William Shakespeare

Duke. One line
{LONG}

  and an indented one
ACT II. A street
not said by anybody
Duke. Again.
<<THE PUBLISHER
not said either
Page. {LONG}
Two
Three
"""


def test_roles_are_who_speaks_three_lines_or_more():
    found = leaf.roles(SONNETS + PLAY)
    title = "THE_TRAGEDY_OF_NOBODY__PRINCE_OF_NOTHING"
    assert found == {
        f"{title}_FIRST_LORD": f"One line,\na second,\n{LONG}.\nAnd on.\n",
        f"{title}_NOBODY": f"Prince\nA speech\n{LONG}.\n{' ' * 48}Exit\nIt goes on after what nobody says.\n"
                           "And again. Sir!\n",
    }


def test_the_comedy_of_errors_is_not_indented():
    found = leaf.roles(SONNETS + PLAY + COMEDY)
    assert found["THE_COMEDY_OF_ERRORS_DUKE"] == f"One line\n{LONG}\n\n  and an indented one\nAgain.\n"
    assert found["THE_COMEDY_OF_ERRORS_PAGE"] == f"{LONG}\nTwo\nThree\n"


def test_a_poem_is_no_play_and_nor_is_what_comes_after_the_last():
    poem = "\n\nA LOVER'S COMPLAINT\n\n\nby William Shakespeare\n\n" + "  Alone. A line\n    more\n    and more\n" * 9
    assert leaf.roles(SONNETS + PLAY + poem).keys() == leaf.roles(SONNETS + PLAY).keys()
    far = SONNETS + PLAY + "\n" * leaf.END + PLAY.replace("NOBODY", "SOMEBODY")
    assert leaf.roles(far) == leaf.roles(SONNETS + PLAY)


@pytest.mark.parametrize("text", ["", "no play", SONNETS, PLAY])
def test_a_text_without_plays_is_refused(text):
    with pytest.raises(ValueError, match="no play of Shakespeare's"):
        leaf.roles(text)


def test_a_role_becomes_one_line_without_runs_of_blanks():
    assert leaf.as_one_line("one two\nthree  four\n   five\n") == "one two three four five "


def test_the_real_roles_set_as_plays_are_found_again():
    """Line by line: each play is called by the first word of its roles, so that the rest is the role's name."""
    path = sets.folder() / "shakespeare.json.gz"
    if not path.is_file():
        pytest.skip("shakespeare.json.gz is not in KDLIB_DATA or the user's cache")
    with gzip.open(path) as file:
        real = json.load(file)
    plays = defaultdict(dict)
    for role, lines in real.items():
        title = "THE COMEDY OF ERRORS" if role.startswith("THE_COMEDY_OF_ERRORS_") else role.partition("_")[0]
        plays[title][role[len(title) + 1 :].replace("_", " ")] = lines.splitlines()
    text = [SONNETS]
    for title, spoken in plays.items():
        text.append(f"\n\n{title}\n\n\nby William Shakespeare\n")
        for name, (first, *more) in spoken.items():
            if title == "THE COMEDY OF ERRORS":  # where a line that looks like a speech begins one
                begins = [True, *(leaf.LOOSE[0].match(line) for line in more)]
                text += [f"{name}. " * bool(begun) + f"{line}\n"
                         for begun, line in zip(begins, (first, *more), strict=True)]
            else:
                text += [f"  {name}. {first}\n", *(f"    {line}\n" for line in more)]
        text.append("<<THE PUBLISHER\n")
    assert len(real) == 1129 and leaf.roles("".join(text)) == real
