"""What objects in a Store are called: made here, and taken apart here.

    public/data  public/test  private/CLIENT/data  private/CLIENT/test  aggregator/validation   before the first Step
    OWNER/RRR/KIND                    of a round: client-0003/004/weights, public/004/teacher, public/004/ARCHITECTURE
    public/selection/RRR  public/cohort/RRR                     JSON: who was called in the round, and who was in time
    aggregator/sizes                                            JSON: how many items each client and the public set have
    public/experiment  FUNCTION/records/RRR-SUBJECT-STEP        JSON: for functions
"""

import re
from typing import NamedTuple

from kdlib.settings.architectures import word

VALIDATION = "aggregator/validation"
SIZES = "aggregator/sizes"
EXPERIMENT = "public/experiment"
SOURCES = "public/sources"  # of strategies and networks that are not kdlib's own

COHORTS = "public/cohort/"  # what they are called that say who was in time

OF_ROUND = re.compile(r"(?P<owner>[^/]+)/(?P<round>[0-9]{3})/(?P<kind>[^/]+)")


class Named(NamedTuple):
    """An object of a round."""

    owner: str
    round: int
    kind: str


def named(owner: str, round_: int, kind: str) -> str:
    """An object of a round; of an architecture's model the kind is the architecture."""
    return f"{owner}/{round_:03}/{word(kind)}"


def read(name: str) -> Named | None:
    """The parts of what `named` made; None for any other object."""
    found = OF_ROUND.fullmatch(name)
    return Named(found["owner"], int(found["round"]), found["kind"]) if found else None


def public(kind: str) -> str:
    """What everybody may read and no round made: `data`, `test`."""
    return f"public/{kind}"


def private(client: str, kind: str) -> str:
    """What only the client may read: `data`, `test`."""
    return f"private/{client}/{kind}"


def selection(round_: int) -> str:
    """The clients that the round calls."""
    return f"public/selection/{round_:03}"


def cohort(round_: int) -> str:
    """The clients that were in time, by step."""
    return f"{COHORTS}{round_:03}"


def record(function: str, round_: int, subject: str, step: str) -> str:
    """The Record of a Step that a function has carried out, alone or as a part.

    It is none of a round: it outlasts the round's objects, or a late repetition would write them anew.
    """
    return f"{function}/records/{round_:03}-{word(subject)}-{step}"
