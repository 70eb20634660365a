"""Files that come from outside: read whole, once, and no more of them than there may be."""

import stat
from pathlib import Path

from kdlib.errors import KdlibError


def content(path: Path, most: int) -> bytes:
    """The file's bytes. Raises KdlibError where it is a pipe or a device, or has more than `most`; OSErrors come."""
    expect_file(path)
    with path.open("rb") as file:
        found = file.read(most + 1)
    if len(found) > most:
        raise KdlibError(f"{path} has more than {most:,} bytes; allowed: no more")
    return found


def expect_file(path: Path) -> None:
    """Raises KdlibError where the path is a pipe or a device, which may never end; OSErrors come."""
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # to open a folder is an OSError that says so
        raise KdlibError(f"{path} is a pipe or a device; allowed: a file")
