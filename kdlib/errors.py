"""The one exception that a user is meant to read, and what makes one of an extra that is not installed."""

import contextlib
import difflib
import importlib.metadata
import re
from collections.abc import Iterable, Iterator

IMPORTED_AS = {"jwt": "pyjwt", "yaml": "pyyaml", "sklearn": "scikit-learn"}  # other than their distribution


class KdlibError(Exception):
    """Something the user can mend, said in one line: what was wrong, and what is allowed.

    The command line prints the message alone, without a traceback, and exits with 2.
    damaged: the name of the object in a store that is the cause, None where none is.
    """

    damaged: str | None = None


class Missing(KdlibError):
    """The object is not in the store; it may come yet."""


class Damaged(KdlibError):
    """The object was truncated or altered, or is not what its owner should have written."""

    def __init__(self, message: str, damaged: str | None = None) -> None:
        super().__init__(message)  # alone, so that a process can send it to another
        self.damaged = damaged


class Unreachable(KdlibError):
    """The store did not answer; it may later."""


def meant(name: str, allowed: Iterable[str]) -> str:
    """For a message: which of the allowed names comes near `name`; empty where none does."""
    close = difflib.get_close_matches(name, list(allowed), 1)
    return f" (did you mean {close[0]}?)" if close else ""


@contextlib.contextmanager
def extras() -> Iterator[None]:
    """Inside, what kdlib or one of its extras brings may be missing: KdlibError, with the command that installs it."""
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if wanted := _bringing(module):
            raise KdlibError(f"{module} is not installed; allowed: pip install '{wanted}'") from error
        raise


def _bringing(module: str) -> str | None:
    """kdlib or kdlib[EXTRA], by its metadata; None where neither asks for the module."""
    name = IMPORTED_AS.get(module, module).lower().replace("_", "-")
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # of a checkout that is not installed
        for line in importlib.metadata.requires("kdlib") or ():
            if re.split(r"[^A-Za-z0-9._-]", line)[0].lower() == name:
                extra = re.search(r"extra == ['\"](\w+)", line)
                return f"kdlib[{extra[1]}]" if extra else "kdlib"
    return None
