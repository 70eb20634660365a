"""A file of JSON lines that only grows: what a kill or a power cut leaves of it can be read."""

import os
import time
from pathlib import Path
from typing import Self

from kdlib.errors import KdlibError

SOON = 1.0  # seconds after which what was written is on the disk; more often would cost short Steps their time


class Journal:
    """Lines are handed over at once, so that a kill loses none; `sync` has them on the disk, as every SOON seconds."""

    def __init__(self, path: Path) -> None:
        whole_lines(path, mend=True)
        path.parent.mkdir(exist_ok=True)
        self._file = path.open("a", encoding="utf-8", newline="\n")
        self._synced = time.monotonic()
        self._new = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sync()
        self._file.close()

    def add(self, line: str) -> None:
        """Write one line, which has no end of a line in it."""
        self._file.write(line + "\n")
        self._file.flush()
        self._new = True
        if time.monotonic() - self._synced > SOON:
            self.sync()

    def sync(self) -> None:
        """From now on a power cut loses nothing of what was added."""
        if self._new:
            os.fsync(self._file.fileno())
            self._new = False
        self._synced = time.monotonic()


def write_whole(path: Path, text: str) -> None:
    """The file has this text, or is what it was: after a kill or a power cut, too."""
    beside = path.with_name(f"{path.name}.part")
    with beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)  # whose list of names is a file of its own
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def whole_lines(path: Path, mend: bool = False) -> list[str]:
    """The file's lines that end; with `mend`, a torn last line is cut off, as it would spoil the next one.

    A line ends at `\\n` alone, whatever else Unicode takes for one. Raises KdlibError where it is no text.
    """
    if not path.exists():
        return []
    try:
        whole, _, torn = path.read_bytes().rpartition(b"\n")
    except OSError as error:
        raise KdlibError(f"cannot read {path}: {error.strerror}") from error
    if torn and mend:
        os.truncate(path, len(whole) + bool(whole))
    try:
        return whole.decode().split("\n") if whole else []
    except UnicodeDecodeError as error:
        raise KdlibError(f"{path} is no text in UTF-8: {error.reason} at byte {error.start}") from error
