"""LEAF's law of who says what in Shakespeare's plays (Caldas et al., 2018), for Project Gutenberg's text of 1994.

A play begins at the line that names its author, the title a few lines above it. A speech begins two blanks in, with the
speaker's name and a full stop, and goes on in lines that are four blanks in. The Comedy of Errors is not indented.
"""

import itertools
import re
from collections import defaultdict

AUTHOR = "by William Shakespeare"
END = 124_196  # lines from the second one on: what comes after them is no play
SHORTEST = 3  # lines of a role
WINDOW = 80  # characters that a role must have more than, runs of blanks counted as one

INDENTED = re.compile(r"  ([A-Za-z][A-Za-z ]*)\. (.*)"), re.compile(r"    (.*)")
LOOSE = re.compile(r"([A-Za-z][A-Za-z ]*)\. (.*)"), re.compile(r"(.*)")
LOOSELY_SET = "THE COMEDY OF ERRORS"


def roles(text: str) -> dict[str, str]:
    """PLAY_ROLE -> its lines, sorted by name. Raises ValueError where the text holds no such plays."""
    lines = text.splitlines(keepends=True)[1:][:END]
    plays = [number for number, line in enumerate(lines) if AUTHOR in line][1:]  # the first line is the sonnets'
    found: dict[str, list[str]] = defaultdict(list)
    for begin, end in itertools.pairwise([*plays, len(lines)]):
        above = [lines[begin - distance].strip() for distance in range(2, 8)]
        title = next((line for line in above if line), "")
        spoken = _spoken(lines[begin + 1 : end], title == LOOSELY_SET)
        if len(spoken) > 1:  # else it is a poem
            for name, said in spoken.items():
                if len(said) >= SHORTEST:
                    found[re.sub(r"\W+", "_", f"{title}_{name}".replace(" ", "_"))] += said
    if not found:
        raise ValueError("it holds no play of Shakespeare's as Project Gutenberg set them in 1994")
    joined = {role: "".join(f"{line}\n" for line in said) for role, said in sorted(found.items())}
    return {role: said for role, said in joined.items() if len(as_one_line(said)) > WINDOW}


def as_one_line(lines: str) -> str:
    """A role's lines as windows are cut from them: joined by blanks, of which no two follow each other."""
    return re.sub("   *", " ", lines.replace("\n", " "))


def _spoken(lines: list[str], loosely: bool) -> dict[str, list[str]]:
    """Name, in capitals -> the lines that it speaks."""
    speech, more = LOOSE if loosely else INDENTED
    spoken: dict[str, list[str]] = defaultdict(list)
    who = None
    for line in lines:
        if begun := speech.match(line):
            who = begun[1].upper()
            if loosely and who.startswith("ACT "):
                who = None
            else:
                spoken[who].append(begun[2])
        elif who and (goes_on := more.match(line)):
            if loosely and goes_on[1].startswith("<"):  # the publisher speaks
                who = None
            else:
                spoken[who].append(goes_on[1])
    return spoken
