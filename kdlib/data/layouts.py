"""How official archives hold their data, and how they become kdlib's files. Nothing is extracted or unpickled."""

import contextlib
import gzip
import hashlib
import json
import math
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PureWindowsPath
from typing import IO, Annotated, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, Field

from kdlib.data import leaf
from kdlib.data.sets import ARRAYS
from kdlib.errors import KdlibError

LARGEST = 2 * 2**30  # bytes, of one download and of one array: EMNIST, the largest here, has 0.5 GiB

Array = Literal["x_train", "y_train", "x_test", "y_test"]  # ARRAYS
Complete = Field(min_length=len(ARRAYS))
Members = Annotated[tuple[str, ...], Field(min_length=1)]


Hash = Annotated[str, Field(pattern=r"^(md5:[0-9a-f]{32}|sha256:[0-9a-f]{64})$")]


class Unhashed(BaseModel, frozen=True, extra="forbid"):
    """One file to download, of which no hash is known. file: its name on disk."""

    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    url: Annotated[str, Field(pattern=r"^https?://[^\s/]+/\S*$")]


class Archive(Unhashed, frozen=True, extra="forbid"):
    """One file to download. hash: md5:... or sha256:..., as published."""

    hash: Hash


Get = Callable[[Unhashed], Path]
"""The archive's file on this disk, its hash checked where there is one."""


class _Published(BaseModel, frozen=True, extra="forbid"):
    """published: the list that the hashes come from."""

    about: str
    published: str


class _Images(_Published):
    """transposed, first_label: how the arrays in the archive differ from those of NAME.npz."""

    suffix: ClassVar[str] = ".npz"
    transposed: bool = False
    first_label: Annotated[int, Field(ge=0, le=255)] = 0

    def read(self, get: Get) -> Iterator[tuple[str, np.ndarray]]:
        """(name, array) of each of ARRAYS."""
        raise NotImplementedError

    def write(self, name: str, get: Get, file: IO[bytes]) -> None:
        """NAME.npz: images upright, labels from 0, as many labels as images. Raises KdlibError where they are not."""
        arrays = dict(self.read(get))
        for x, y in (("x_train", "y_train"), ("x_test", "y_test")):
            if len(arrays[x]) != len(arrays[y]):
                raise KdlibError(f"{name} has {len(arrays[x])} images in {x}, but {len(arrays[y])} labels in {y}")
            if arrays[y].min() < self.first_label:
                raise KdlibError(f"{name} has label {arrays[y].min()} in {y}; allowed: from {self.first_label}")
            arrays[x] = arrays[x].swapaxes(1, 2) if self.transposed else arrays[x]
            arrays[y] = arrays[y] - self.first_label
        np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy's stubs take an array for allow_pickle


class Idx(_Images):
    """Four gzipped idx files."""

    layout: Literal["idx"]
    files: Annotated[dict[Array, Archive], Complete]

    def read(self, get: Get) -> Iterator[tuple[str, np.ndarray]]:
        """(name, uint8 array) as they are in the files. Raises KdlibError for a damaged file."""
        for name, archive in self.files.items():
            yield name, _read_idx(get(archive), archive.file, name)


class ZipIdx(_Images):
    """Four gzipped idx files, members of one zip archive."""

    layout: Literal["zip-idx"]
    archive: Archive
    members: Annotated[dict[Array, str], Complete]

    def read(self, get: Get) -> Iterator[tuple[str, np.ndarray]]:
        """(name, uint8 array) as they are in the archive.

        Raises KdlibError for a damaged archive, and for one with any member that would leave its folder.
        """
        path = get(self.archive)
        with _readable(path.name), zipfile.ZipFile(path) as archive:
            _within(path.name, archive.namelist())
            for name, member in self.members.items():
                with archive.open(member) as stream:
                    yield name, _read_idx(stream, f"{path.name}: {member}", name)


class TarRecords(_Images):
    """CIFAR's binary version: members of one gzipped tar archive, each a sequence of records.

    labels: bytes of labels before a record's pixels, of which the last is taken (CIFAR-100: coarse, then fine); shape:
    (height, width, channels) of an image, whose pixels are stored channel by channel.
    """

    layout: Literal["tar-records"]
    archive: Archive
    members: Annotated[dict[Literal["train", "test"], Members], Field(min_length=2)]
    labels: Annotated[int, Field(ge=1, le=8)]
    shape: tuple[Annotated[int, Field(ge=1, le=512)], Annotated[int, Field(ge=1, le=512)],
                 Annotated[int, Field(ge=1, le=4)]]

    def read(self, get: Get) -> Iterator[tuple[str, np.ndarray]]:
        """(name, uint8 array) of the images (N, height, width, channels) and their labels.

        Raises KdlibError as ZipIdx.read does, and for a member that is no whole number of records.
        """
        path = get(self.archive)
        with _readable(path.name), tarfile.open(path, "r:gz") as archive:
            _within(path.name, archive.getnames())
            for split, members in self.members.items():
                records = np.concatenate([self._records(archive, path.name, member) for member in members])
                height, width, channels = self.shape
                pixels = records[:, self.labels:].reshape(-1, channels, height, width)
                yield f"x_{split}", np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
                yield f"y_{split}", records[:, self.labels - 1].copy()

    def _records(self, archive: tarfile.TarFile, file: str, member: str) -> np.ndarray:
        """uint8 (records, labels + pixels)."""
        there, size = archive.getmember(member), self.labels + math.prod(self.shape)
        if not there.isfile():
            raise KdlibError(f"{file}: {member} is a link, a folder or a device; it must be a file")
        if not 0 < there.size <= LARGEST or there.size % size:
            raise KdlibError(f"{file}: {member} has {there.size:,} bytes; it must hold records of {size:,} bytes each")
        stream = archive.extractfile(there)
        assert stream is not None  # of a file there is one
        return np.frombuffer(stream.read(there.size), np.uint8).reshape(-1, size)


class Text(_Published):
    """One UTF-8 text, as it is."""

    suffix: ClassVar[str] = ".txt"
    layout: Literal["text"]
    archive: Archive

    def write(self, name: str, get: Get, file: IO[bytes]) -> None:
        """NAME.txt. Raises KdlibError where it is no text."""
        path = get(self.archive)
        content = path.read_bytes()
        _decoded(content, path.name)
        file.write(content)


class Plays(_Published):
    """Shakespeare's plays, one text in a zip archive, taken apart by LEAF's law (kdlib.data.leaf).

    Where the archive's publisher tells no hash of it, `roles` is what must agree: the SHA-256 of what the law makes.
    """

    suffix: ClassVar[str] = ".json.gz"
    layout: Literal["leaf-plays"]
    archive: Archive | Unhashed
    member: str
    roles: Annotated[Hash, Field(pattern="^sha256:")]

    def write(self, name: str, get: Get, file: IO[bytes]) -> None:
        """NAME.json.gz, {role: its lines}. Raises KdlibError for another text; then the archive is fetched anew."""
        path = get(self.archive)
        try:
            with _readable(path.name), zipfile.ZipFile(path) as archive:
                if archive.getinfo(self.member).file_size > LARGEST:
                    raise KdlibError(f"{path.name}: {self.member} has more than {LARGEST:,} bytes; allowed: no more")
                text = _decoded(archive.read(self.member), path.name)
            try:
                found = json.dumps(leaf.roles(text)).encode()
            except ValueError as error:
                raise KdlibError(f"{path.name} cannot be read: {error}") from error
            if (digest := f"sha256:{hashlib.sha256(found).hexdigest()}") != self.roles:
                raise KdlibError(f"the roles in {path.name} have the hash {digest}; expected: {self.roles}")
        except KdlibError:
            path.unlink(missing_ok=True)
            raise
        with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
            packed.write(found)


def _decoded(content: bytes, what: str) -> str:
    try:
        return content.decode().replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise KdlibError(f"{what} is no UTF-8 text: {error}") from error


def _within(file: str, members: list[str]) -> None:
    for member in members:
        parsed = PureWindowsPath(member)  # of all kinds of path this one knows both separators, and drives
        if parsed.anchor or ".." in parsed.parts:
            raise KdlibError(f"{file} is refused: its member '{member}' leaves the archive's folder")


@contextlib.contextmanager
def _readable(what: str) -> Iterator[None]:
    """Turns what gzip, zlib, tarfile and zipfile raise for damaged, encrypted or absent content into a KdlibError."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error, zipfile.BadZipFile, tarfile.TarError, RuntimeError,
            KeyError) as error:
        raise KdlibError(f"{what} cannot be read: {error}") from error


def _read_idx(source: Path | IO[bytes], what: str, name: str) -> np.ndarray:
    """The uint8 array of a gzipped idx file, three-dimensional for x_..., one-dimensional for y_...

    Not a byte more is unpacked than the header announces, and one to see that there is none.
    """
    ndim = 3 if name.startswith("x") else 1
    with _readable(what), gzip.open(source) as stream:
        head = stream.read(4 + 4 * ndim)
        if len(head) != 4 + 4 * ndim or head[:4] != bytes([0, 0, 8, ndim]):  # 8: unsigned bytes
            raise KdlibError(f"{what} begins with {head[:4].hex()}; it must have the idx header 000008{ndim:02}")
        shape = struct.unpack(f">{ndim}I", head[4:])
        size = math.prod(shape)
        if not 0 < size <= LARGEST:
            raise KdlibError(f"{what} announces {size:,} bytes; allowed: 1 to {LARGEST:,}")
        content = stream.read(size)
        if len(content) != size or stream.read(1):
            raise KdlibError(f"{what} holds {'less' if len(content) != size else 'more'} than the {size:,} bytes "
                             "that its header announces")
    return np.frombuffer(content, np.uint8).reshape(shape)
