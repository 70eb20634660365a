"""TOML files that a user may write: tasks, prices, registries, values; each mistake in them is told in one line."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from kdlib.errors import KdlibError
from kdlib.files import content

LARGEST = 2**20  # bytes, far above any of kdlib's files

T = TypeVar("T")


def built_in(folder: Path) -> list[str]:
    """Names of the files that come with kdlib in that folder."""
    return sorted(path.stem for path in folder.glob("*.toml"))


def find(name: str, folder: Path, what: str) -> Path:
    """The file `name` among the built-in ones in `folder`, or the one at the path `name` if it ends in .toml.

    Raises KdlibError where it is neither.
    """
    if name.endswith(".toml"):
        return Path(name)
    if name not in built_in(folder):
        raise KdlibError(f"unknown {what} '{name}'; allowed: {', '.join(built_in(folder))}, or the path of a .toml "
                         "file")
    return folder / f"{name}.toml"


def read(path: Path, what: str, build: Callable[[dict], T], parse_float: Callable[[str], object] = float) -> T:
    """What `build`, a pydantic model's constructor or the like, makes of the file's values.

    Raises KdlibError where the file cannot be read, is no TOML, or says what cannot be.
    """
    try:
        values = tomllib.loads(content(path, LARGEST).decode(), parse_float=parse_float)
    except OSError as error:
        raise KdlibError(f"cannot read the {what} {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # a number may be too long, and brackets too deep
        raise KdlibError(f"{path} is not a TOML file: {error}") from error
    try:
        return build(values)
    except (ValidationError, TypeError, RecursionError) as error:
        raise KdlibError(f"{what} {path}: {one_line(error)}") from error


def validated(kind: type[T], what: str, fields: dict) -> T:
    """The pydantic model of these fields. Raises KdlibError, which names `what`, where they cannot be."""
    try:
        return kind(**fields)
    except ValidationError as error:
        raise KdlibError(f"{what}: {one_line(error)}") from error


def one_line(error: Exception) -> str:
    """The first complaint of a pydantic ValidationError as one line: where, what, and what came."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        return f"unknown setting '{where}'"
    shown = "" if first["type"] in ("missing", "value_error") else f", not {_shown(first['input'])}"
    return f"{where}: {message[0].lower() + message[1:]}{shown}" if where else message


def _shown(value: object) -> str:
    try:
        return repr(str(value)[:60])
    except (ValueError, RecursionError):  # Python writes no numbers of over 4,300 digits
        return "something too large to be shown"
