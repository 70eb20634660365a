"""The one exception that a user is meant to read."""

import difflib
from collections.abc import Iterable


class KdlibError(Exception):
    """Something the user can mend, said in one line: what was wrong, and what is allowed.

    The command line prints the message alone, without a traceback, and exits with 2.
    """


class Missing(KdlibError):
    """The object is not in the store; it may come yet."""


class Damaged(KdlibError):
    """The object was truncated or altered, or kdlib did not write it."""


class Unreachable(KdlibError):
    """The store did not answer; it may later."""


def meant(name: str, allowed: Iterable[str]) -> str:
    """For a message: which of the allowed names comes near `name`; empty where none does."""
    close = difflib.get_close_matches(name, list(allowed), 1)
    return f" (did you mean {close[0]}?)" if close else ""
