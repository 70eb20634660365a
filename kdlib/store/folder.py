"""A folder as a store's file system: objects are plain files in plain folders, whoever else may write there."""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from typing import Any

from fsspec.implementations.local import LocalFileSystem

PLAIN = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # to open a pipe or a device must not wait for its other end
WRONG = (errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO, errno.ENODEV)  # what opening anything else says


class NotAFile(OSError):
    """In an object's place, or in its folder's, lies something else."""


class Folder(LocalFileSystem):  # type: ignore[misc]  # fsspec has no types
    """The local files below `base`, where no link is followed and nothing but a regular file is opened.

    `base` itself may be reached by links: that is the user's. Raises NotAFile.
    """

    cachable = False

    def __init__(self, base: str) -> None:
        super().__init__()
        self.base = base

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        """The file's first `end` bytes, or all: never more than it has when it is opened."""
        with self._parent(path) as (folder, name), os.fdopen(_opened(name, os.O_RDONLY, folder), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            return file.read(size if end is None else min(size, end))

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        """Write the file, which a reader may see half of; the folder is there."""
        with self._parent(path) as (folder, name), \
                os.fdopen(_opened(name, os.O_WRONLY | os.O_CREAT, folder), "wb") as file:
            file.truncate()
            file.write(value)

    def mv(self, path1: str, path2: str, **options: Any) -> None:
        """At once, in the place of a file or a link that is there."""
        with self._parent(path1) as (before, old), self._parent(path2) as (after, new), _as_files(path2):
            os.replace(old, new, src_dir_fd=before, dst_dir_fd=after)

    def link(self, src: str, dst: str, **options: Any) -> None:
        """A second name, where nothing is called so. Raises FileExistsError."""
        with self._parent(src) as (before, old), self._parent(dst) as (after, new):
            os.link(old, new, src_dir_fd=before, dst_dir_fd=after, follow_symlinks=False)

    def rm_file(self, path: str) -> None:
        """The file, or what else has its name and is no folder."""
        with self._parent(path) as (folder, name), _as_files(path):
            os.unlink(name, dir_fd=folder)

    def find(self, path: str, **options: Any) -> list[str]:
        """All below that is no folder."""
        return [f"{folder}/{name}" for folder, _, names in os.walk(path) for name in names]

    @contextlib.contextmanager
    def _parent(self, path: str) -> Iterator[tuple[int, str]]:
        """The open folder of the path, and its last word; each folder on the way is opened in the one before."""
        *between, name = os.path.relpath(path, self.base).split("/")
        with contextlib.ExitStack() as opened:
            folder = os.open(self.base, os.O_RDONLY | os.O_CLOEXEC)
            opened.callback(os.close, folder)
            for word in between:
                with _as_files(path):
                    folder = os.open(word, os.O_RDONLY | os.O_DIRECTORY | PLAIN, dir_fd=folder)
                opened.callback(os.close, folder)
            yield folder, name


def _opened(name: str, flags: int, folder: int) -> int:
    """A descriptor of the regular file."""
    with _as_files(name):
        descriptor = os.open(name, flags | PLAIN, 0o666, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotAFile(errno.EINVAL, "no regular file", name)
    return descriptor


@contextlib.contextmanager
def _as_files(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in WRONG:
            raise NotAFile(error.errno, error.strerror, path) from error
        raise
