"""Official data sets: downloaded, checked by hash, and turned into NAME.npz."""

import contextlib
import functools
import gzip
import math
import struct
import time
import tomllib
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PureWindowsPath
from typing import IO, Annotated, Literal

import filelock
import httpx
import numpy as np
import pooch
from pydantic import BaseModel, Field, TypeAdapter
from tqdm.auto import tqdm

from kdlib.data import ARRAYS
from kdlib.errors import KdlibError
from kdlib.task import Name, one_line

BUILT_IN_REGISTRY = Path(__file__).parent / "sources.toml"
LARGEST = 2 * 2**30  # bytes, of one download and of one array: EMNIST, the largest here, has 0.5 GiB
PAUSES = (1.0, 4.0)  # seconds before the second and the third try of a transfer
TIMEOUT = httpx.Timeout(60, connect=10)

pooch.get_logger().setLevel("WARNING")  # it would announce every file; the progress bar does

Array = Literal[*ARRAYS]
Complete = Field(min_length=len(ARRAYS))


class Archive(BaseModel, frozen=True, extra="forbid"):
    """One file to download. file: its name on disk; hash: md5:... or sha256:..., as published."""

    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    url: Annotated[str, Field(pattern=r"^https?://[^\s/]+/\S*$")]
    hash: Annotated[str, Field(pattern=r"^(md5:[0-9a-f]{32}|sha256:[0-9a-f]{64})$")]


class _Published(BaseModel, frozen=True, extra="forbid"):
    """published: the list that the hashes come from; transposed, first_label: how the files differ from NAME.npz."""

    about: str
    published: str
    transposed: bool = False
    first_label: Annotated[int, Field(ge=0, le=255)] = 0


class Idx(_Published):
    """Four gzipped idx files."""

    layout: Literal["idx"]
    files: Annotated[dict[Array, Archive], Complete]

    def read(self, get: Callable[[Archive], Path]) -> Iterator[tuple[str, np.ndarray]]:
        """(name, uint8 array) as they are in the files. Raises KdlibError for a damaged file."""
        for name, archive in self.files.items():
            yield name, _read_idx(get(archive), archive.file, name)


class ZipIdx(_Published):
    """Four gzipped idx files, members of one zip archive."""

    layout: Literal["zip-idx"]
    archive: Archive
    members: Annotated[dict[Array, str], Complete]

    def read(self, get: Callable[[Archive], Path]) -> Iterator[tuple[str, np.ndarray]]:
        """(name, uint8 array) as they are in the archive, which is never extracted.

        Raises KdlibError for a damaged archive, and for one with any member that would leave its folder.
        """
        path = get(self.archive)
        with _readable(path.name), zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                parsed = PureWindowsPath(member)  # of all kinds of path this one knows both separators, and drives
                if parsed.anchor or ".." in parsed.parts:
                    raise KdlibError(f"{path.name} is refused: its member '{member}' leaves the archive's folder")
            for name, member in self.members.items():
                with archive.open(member) as stream:
                    yield name, _read_idx(stream, f"{path.name}: {member}", name)


REGISTRY = TypeAdapter(dict[Name, Annotated[Idx | ZipIdx, Field(discriminator="layout")]])


def available(registry: Path = BUILT_IN_REGISTRY) -> list[str]:
    """Names of the data sets that `fetch` knows. Raises KdlibError for a bad registry file."""
    return sorted(_load(registry))


def describe(registry: Path = BUILT_IN_REGISTRY) -> dict[str, str]:
    """Name -> about of the data sets that `fetch` knows, by name. Raises KdlibError for a bad registry file."""
    return {name: source.about for name, source in sorted(_load(registry).items())}


def fetch(name: str, folder: Path, registry: Path = BUILT_IN_REGISTRY, progress: bool = True) -> Path:
    """folder/NAME.npz, downloaded and converted if it is not there yet.

    It holds uint8 x_train, x_test (N, height, width) and y_train, y_test (N,), labels from 0. Archives stay in
    folder/downloads, where a transfer that was cut is resumed. registry: a TOML file like sources.toml.
    Raises KdlibError for an unknown name, a failed transfer, a wrong hash, and content that is not of the format.
    """
    sources = _load(registry)
    if name not in sources:
        raise KdlibError(f"unknown data set '{name}'; allowed: {', '.join(sorted(sources))}")
    target, downloads = folder / f"{name}.npz", folder / "downloads"
    if target.is_file():
        return target
    try:
        downloads.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(downloads / ".lock", timeout=0):  # two processes must not append to one part file
            get = functools.partial(_retrieve, downloads=downloads, progress=progress)
            _write(target, _arranged(name, sources[name], dict(sources[name].read(get))))
    except filelock.Timeout as error:
        raise KdlibError(f"another process is downloading to {downloads}; wait for it or end it") from error
    except OSError as error:
        raise KdlibError(f"cannot fetch {name} to {folder}: {error.strerror or error}") from error
    return target


def _load(registry: Path) -> dict[str, Idx | ZipIdx]:
    try:
        return REGISTRY.validate_python(tomllib.loads(registry.read_text(encoding="utf-8")))
    except OSError as error:
        raise KdlibError(f"cannot read the data registry {registry}: {error.strerror}") from error
    except ValueError as error:  # of TOML, of UTF-8, or of pydantic
        raise KdlibError(f"data registry {registry}: {one_line(error)}") from error


def _retrieve(archive: Archive, downloads: Path, progress: bool) -> Path:
    """The archive's file in `downloads`, its hash checked."""
    part = downloads / f"{archive.file}.part"
    transfer = functools.partial(_transfer, part=part, progress=progress)
    try:
        return Path(pooch.retrieve(archive.url, archive.hash, archive.file, downloads, downloader=transfer))
    except ValueError as error:  # pooch's word for a wrong hash; it names both and has removed the file
        raise KdlibError(f"{archive.url}: {error}") from error


def _transfer(url: str, output: str, _pooch, *, part: Path, progress: bool) -> None:
    """A downloader for pooch: `part` grows over tries, even over calls, and becomes `output` when it is whole."""
    for pause in (*PAUSES, None):
        try:
            _stream(url, part, progress)
            break
        except (httpx.RequestError, httpx.InvalidURL) as error:
            if pause is None:
                raise KdlibError(f"cannot get {url}: {str(error) or type(error).__name__}; "
                                 "what has come is kept, and the next call goes on from there") from error
            time.sleep(pause)
    part.replace(output)


def _stream(url: str, part: Path, progress: bool) -> None:
    """One request for what `part` still lacks. An answer shorter than announced raises httpx.RemoteProtocolError."""
    start = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with httpx.stream("GET", url, headers=headers, timeout=TIMEOUT, follow_redirects=True) as response:
        if start and response.status_code == 416:  # what is there is no beginning of the file
            part.unlink()
            return _stream(url, part, progress)
        if response.status_code not in (200, 206):
            raise KdlibError(f"cannot get {url}: the server answered {response.status_code} {response.reason_phrase}")
        start = start if response.status_code == 206 else 0
        length = int(response.headers.get("Content-Length", 0))
        with part.open("ab" if start else "wb") as file, tqdm(
            desc=part.stem, initial=start, total=start + length if length else None, disable=not progress,
            unit="B", unit_scale=True, unit_divisor=1024,
        ) as bar:
            for block in response.iter_raw():
                file.write(block)
                bar.update(len(block))
                if file.tell() > LARGEST:
                    raise KdlibError(f"{url} sends more than {LARGEST:,} bytes; allowed: no more than that")


@contextlib.contextmanager
def _readable(what: str) -> Iterator[None]:
    """Turns what gzip, zlib and zipfile raise for damaged, encrypted or absent content into a KdlibError."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error, zipfile.BadZipFile, RuntimeError, KeyError) as error:
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


def _arranged(name: str, source: Idx | ZipIdx, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays as NAME.npz has them: images upright, labels from 0, as many labels as images."""
    for x, y in (("x_train", "y_train"), ("x_test", "y_test")):
        if len(arrays[x]) != len(arrays[y]):
            raise KdlibError(f"{name} has {len(arrays[x])} images in {x}, but {len(arrays[y])} labels in {y}")
        if arrays[y].min() < source.first_label:
            raise KdlibError(f"{name} has label {arrays[y].min()} in {y}; allowed: from {source.first_label}")
        arrays[x] = arrays[x].swapaxes(1, 2) if source.transposed else arrays[x]
        arrays[y] = arrays[y] - source.first_label
    return arrays


def _write(target: Path, arrays: dict[str, np.ndarray]) -> None:
    """NAME.npz, whole or not at all."""
    beside = target.with_suffix(".npz.part")
    try:
        with beside.open("wb") as file:
            np.savez(file, **arrays)
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)
