"""Official data sets: downloaded, checked by hash, and turned into NAME.npz, NAME.txt or NAME.json.gz."""

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Annotated

import filelock
import httpx
import pooch
from pydantic import Field, TypeAdapter
from tqdm.auto import tqdm

from kdlib import toml
from kdlib.data.layouts import LARGEST, Idx, Plays, TarRecords, Text, Unhashed, ZipIdx
from kdlib.errors import KdlibError
from kdlib.settings.task import Name

BUILT_IN_REGISTRY = Path(__file__).parent / "sources.toml"
PAUSES = (1.0, 4.0)  # seconds before the second and the third try of a transfer
TIMEOUT = httpx.Timeout(60, connect=10)

pooch.get_logger().setLevel("WARNING")  # it would announce every file; the progress bar does

Source = Annotated[Idx | ZipIdx | TarRecords | Text | Plays, Field(discriminator="layout")]
REGISTRY = TypeAdapter(dict[Name, Source])


def available(registry: Path = BUILT_IN_REGISTRY) -> list[str]:
    """Names of the data sets that `fetch` knows. Raises KdlibError for a bad registry file."""
    return sorted(_load(registry))


def describe(registry: Path = BUILT_IN_REGISTRY) -> dict[str, tuple[str, str]]:
    """Name -> (about, file name) of the data sets that `fetch` knows, by name. Raises KdlibError for a bad registry."""
    return {name: (source.about, name + source.suffix) for name, source in sorted(_load(registry).items())}


def fetch(name: str, folder: Path, registry: Path = BUILT_IN_REGISTRY, progress: bool = True) -> Path:
    """folder/NAME.npz (of a text NAME.txt, of roles NAME.json.gz), downloaded and converted if it is not there yet.

    The first holds uint8 x_train, x_test (N, height, width[, channels]) and y_train, y_test (N,), labels from 0.
    Archives stay in folder/downloads, where a transfer that was cut is resumed. registry: a TOML file like
    sources.toml.
    Raises KdlibError for an unknown name, a failed transfer, a wrong hash, and content that is not of the format.
    """
    sources = _load(registry)
    if name not in sources:
        raise KdlibError(f"unknown data set '{name}'; allowed: {', '.join(sorted(sources))}")
    source, downloads = sources[name], folder / "downloads"
    target = folder / f"{name}{source.suffix}"
    if target.is_file():
        return target
    try:
        downloads.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(downloads / ".lock", timeout=0):  # two processes must not append to one part file
            get = functools.partial(_retrieve, downloads=downloads, progress=progress)
            _write(target, functools.partial(source.write, name, get))
    except filelock.Timeout as error:
        raise KdlibError(f"another process is downloading to {downloads}; wait for it or end it") from error
    except OSError as error:
        raise KdlibError(f"cannot fetch {name} to {folder}: {error.strerror or error}") from error
    return target


def _load(registry: Path) -> dict[str, Source]:
    return toml.read(registry, "data registry", REGISTRY.validate_python)


def _retrieve(archive: Unhashed, downloads: Path, progress: bool) -> Path:
    """The archive's file in `downloads`, its hash checked where there is one."""
    part = downloads / f"{archive.file}.part"
    transfer = functools.partial(_transfer, part=part, progress=progress)
    try:
        known = getattr(archive, "hash", None)
        return Path(pooch.retrieve(archive.url, known, archive.file, downloads, downloader=transfer))
    except ValueError as error:  # pooch's word for a wrong hash; it names both and has removed the file
        raise KdlibError(f"{archive.url}: {error}") from error


def _transfer(url: str, output: str, _pooch: object, *, part: Path, progress: bool) -> None:
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


def _write(target: Path, write: Callable[[IO[bytes]], None]) -> None:
    """The target, whole or not at all."""
    beside = target.with_name(f"{target.name}.part")
    try:
        with beside.open("wb") as file:
            write(file)
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)
