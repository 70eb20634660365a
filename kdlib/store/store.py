"""Named tensors and JSON at an fsspec URL: what Steps read and write. Never pickle."""

import contextlib
import hashlib
import json
import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import safetensors
import safetensors.torch
from torch import Tensor

from kdlib.errors import Damaged, KdlibError, Missing
from kdlib.store.folder import Folder, NotAFile

NAME = re.compile(r"[a-z0-9][a-z0-9_-]*(/[a-z0-9][a-z0-9_-]*)*")
OWNER = r"(?:private/|(?!private/))[a-z0-9][a-z0-9_-]*"
PERMANENT = ("data", "test", "validation")  # laid down before the first Step, never written again
TENSORS, JSON = ".safetensors", ".json"
# Where an object holds its SHA-256: that of all its bytes, with ZEROS in this place.
SEAL = {TENSORS: re.compile(rb'.{8}\{"__metadata__":\{"sha256":"([0-9a-f]{64})"', re.DOTALL),
        JSON: re.compile(rb'\{"sha256":"([0-9a-f]{64})"')}
ZEROS = "0" * 64
JSON_LIMIT = 64 * 2**20  # bytes
LARGEST = 8 * 2**30  # bytes of any object; the data of the largest task have a thousandth
NO_FILE = "it is no file, but a link, a folder, a pipe or a device, or lies in what is no folder"
SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)(::|://)")  # what a URL begins with, or a chain of them


class Store:
    """Objects under one root, each written whole or not at all, and checked by its SHA-256 when it is read.

    url: a Path, which is a folder whatever its name says, or a text: a folder or any URL that fsspec knows, such as
    memory://name or s3://bucket/prefix (with the AWS_* environment variables). With `{owner}` in the text, as in
    s3://bucket/{owner}/run, every owner has a place of its own, to which others need not be let in. A name's first word
    is its owner (public, client-0000, aggregator), or the first two where it is `private`.
    place: what makes the same Store in another process and from any working directory, where that can be.
    bytes_in, bytes_out: what was read and written through this instance.
    Names are lower-case words joined by `/`; anything else, `..` among it, raises KdlibError.
    Objects called data, test or validation never change: an instance reads each once and keeps it.
    A write that has returned is seen by every reader. S3 that cannot be reached is waited for, see kdlib.store.s3,
    and then raises Unreachable; a folder's OSErrors, such as a full disk, come as they are.
    """

    def __init__(self, url: str | Path) -> None:
        self.url = str(url)
        self.fs, self.root, self._attempt = _folder(url) if isinstance(url, Path) else _located(url)
        self.place = Path(self.root) if isinstance(url, Path) else str(self.fs.unstrip_protocol(self.root))
        self.base, owned, within = (self.root, "", "") if isinstance(url, Path) else self.root.partition("/{owner}")
        self._within = f"{within}/" if owned else None
        owner = f"(?P<owner>{OWNER}/){re.escape(within[1:])}/" if owned else "(?P<owner>)"
        self._listed = re.compile(f"{re.escape(self.base)}/{owner}(?P<rest>.+)")
        self.bytes_in = 0
        self.bytes_out = 0
        self._kept: dict[str, dict[str, Tensor]] = {}

    def put(self, name: str, tensors: dict[str, Tensor]) -> None:
        """Write named tensors of any shape and dtype. Equal tensors give equal bytes."""
        content = safetensors.torch.save({key: tensor.contiguous() for key, tensor in tensors.items()},
                                         {"sha256": ZEROS})
        self._write(name, TENSORS, _sealed(content, TENSORS))

    def get(self, name: str, most: int | None = None) -> dict[str, Tensor]:
        """The tensors that `put` wrote, to be read only. Raises Missing and Damaged.

        most: bytes of an object of another party, which is not believed to be of a size that fits into memory.
        """
        if name in self._kept:
            return self._kept[name]
        content = self._read_sealed(name, TENSORS, most)
        try:
            tensors = safetensors.torch.load(content)
        except safetensors.SafetensorError as error:
            raise self._damaged(name, error) from error
        if name.rpartition("/")[2] in PERMANENT:
            self._kept[name] = tensors
        return tensors

    def put_json(self, name: str, value: object) -> None:
        """Write what JSON can say, with sorted keys, in at most JSON_LIMIT bytes. Raises ValueError for NaN."""
        self._write(name, JSON, self._to_json(name, value))

    def get_json(self, name: str) -> object:
        """What `put_json` wrote. Raises Missing and Damaged."""
        return self._from_json(name, self._read_sealed(name, JSON, JSON_LIMIT))

    def keep_first_json(self, name: str, value: object) -> object:
        """Write `value` unless the object is there already; returns what it holds then, for every caller the same.

        On S3 that takes a server that heeds If-None-Match, as AWS does; another one keeps the last of two at a time.
        """
        content = self._to_json(name, value)
        try:
            self._write(name, JSON, content, new=True)
        except FileExistsError:
            return self.get_json(name)
        return self._from_json(name, content)

    def exists(self, name: str) -> bool:
        """True where tensors or JSON of that name are there, whole or damaged."""
        for suffix in (TENSORS, JSON):
            with contextlib.suppress(Missing):
                with contextlib.suppress(Damaged):
                    self._read(name, suffix, 1)
                return True
        return False

    def names(self) -> list[str]:
        """Every object's name, sorted; a JSON object's ends in .json here."""
        found = self._attempt(self.url, self.fs.find, self.base)
        places = [self._listed.fullmatch(path) for path in found if path.endswith((TENSORS, JSON))]
        return sorted(place["owner"] + place["rest"].removesuffix(TENSORS) for place in places if place)

    def delete(self, name: str) -> None:
        """Remove the object that `names` calls `name`; one that is gone already is well."""
        path = self._path(*_kind(name))
        try:
            self._attempt(f"{name} in {self.url}", self.fs.rm_file, path)
        except FileNotFoundError:
            pass
        except NotAFile as error:
            raise self._damaged(name, NO_FILE) from error

    def content(self, name: str) -> bytes:
        """The bytes of the object that `names` calls `name`, for hashing. Raises Missing and Damaged."""
        return self._read_sealed(*_kind(name), LARGEST)

    def _path(self, name: str, suffix: str) -> str:
        if not NAME.fullmatch(name):
            raise KdlibError(f"'{name[:80]}' is no name for an object; allowed: lower-case words joined by /")
        if self._within is None:
            return f"{self.root}/{name}{suffix}"
        owned = re.fullmatch(f"({OWNER})/(.+)", name)
        if not owned:
            raise KdlibError(f"'{name[:80]}' names no owner; allowed in {self.url}: OWNER/..., private/OWNER/...")
        return f"{self.base}/{owned[1]}{self._within}{owned[2]}{suffix}"

    def _read(self, name: str, suffix: str, most: int | None = None) -> bytes:
        path = self._path(name, suffix)
        try:
            content: bytes = self._attempt(f"{name} in {self.url}", self.fs.cat_file, path,
                                           start=0, end=most or LARGEST + 1)
        except FileNotFoundError as error:
            raise Missing(f"{name} is not in {self.url}") from error
        except NotAFile as error:
            raise self._damaged(name, NO_FILE) from error
        self.bytes_in += len(content)
        return content

    def _read_sealed(self, name: str, suffix: str, limit: int | None = None) -> bytes:
        limit = min(limit or LARGEST, LARGEST)
        content = self._read(name, suffix, limit + 1)
        if len(content) > limit:
            raise self._damaged(name, f"it has over {limit} bytes")
        seal = SEAL[suffix].match(content)
        if not seal:
            raise self._damaged(name, "it has no checksum")
        if seal[1] != _sha256(content, *seal.span(1)):
            raise self._damaged(name, "its checksum is wrong")
        return content

    def _damaged(self, name: str, why: object) -> Damaged:
        return Damaged(f"{name} in {self.url} is damaged: {why}", name)

    def _write(self, name: str, suffix: str, content: bytes, new: bool = False) -> None:
        """Raises FileExistsError for a `new` object that is there already."""
        path = self._path(name, suffix)
        if "file" not in self.fs.protocol:  # memory and object stores put whole objects
            self._attempt(f"{name} in {self.url}", self.fs.pipe_file, path, content,
                          mode="create" if new else "overwrite")
        else:
            try:
                self._write_file(path, content, new)
            except NotAFile as error:
                raise self._damaged(name, NO_FILE) from error
        self.bytes_out += len(content)

    def _write_file(self, path: str, content: bytes, new: bool) -> None:
        self.fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        beside = f"{path}.{uuid.uuid4().hex}.part"  # functions in several containers share process ids
        try:
            self.fs.pipe_file(beside, content)
            (self.fs.link if new else self.fs.mv)(beside, path)
        finally:
            if self.fs.exists(beside):
                self.fs.rm_file(beside)

    def _to_json(self, name: str, value: object) -> bytes:
        text = json.dumps({"sha256": ZEROS, "value": value}, sort_keys=True, allow_nan=False, separators=(",", ":"))
        if len(text) > JSON_LIMIT:
            raise KdlibError(f"{name} takes {len(text)} bytes of JSON; allowed: at most {JSON_LIMIT}")
        return _sealed(text.encode(), JSON)

    def _from_json(self, name: str, content: bytes) -> object:
        try:
            return json.loads(content)["value"]
        except (ValueError, KeyError, RecursionError) as error:  # sealed, but not by put_json
            raise self._damaged(name, error) from error


def absolute(url: str) -> str:
    """The same URL, a folder's from any working directory. Raises KdlibError where it is no URL, or a chain of them."""
    scheme = SCHEME.match(url)
    if scheme and ("::" in url and scheme[1] not in ("file", "local")):
        raise KdlibError(f"{url} is a chain of URLs, where one is meant; allowed: one URL such as s3://bucket/runs, or "
                         "the absolute path of a folder")
    return url if scheme else str(Path(url).expanduser().absolute())


def _located(url: str) -> tuple[Any, str, Callable[..., Any]]:
    """The file system of a URL, its place there, and how a call is made."""
    url = absolute(url)
    for scheme in ("file://", "local://"):
        url = url.removeprefix(scheme)
    if not SCHEME.match(url):
        return _folder(Path(url))
    if not url.startswith(("s3://", "s3a://")):
        return *fsspec.url_to_fs(url), _once
    try:
        from kdlib.store import s3  # only where it is asked for: it takes half a second to import
    except ImportError as error:
        raise KdlibError(f"{url} needs s3fs; allowed: pip install 'kdlib[s3]', or a folder") from error
    fs = s3.filesystem()
    return fs, fs._strip_protocol(url), s3.patiently


def _folder(path: Path) -> tuple[Any, str, Callable[..., Any]]:
    place = str(path.absolute())
    return Folder(place.partition("/{owner}")[0]), place, _once


def _once(what: str, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    return call(*arguments, **options)


def _kind(name: str) -> tuple[str, str]:
    """What `names` calls an object -> its name and suffix."""
    return (name.removesuffix(JSON), JSON) if name.endswith(JSON) else (name, TENSORS)


def _sealed(content: bytes, suffix: str) -> bytes:
    seal = SEAL[suffix].match(content)
    assert seal is not None  # both formats keep it at their head
    start, end = seal.span(1)
    return b"".join((content[:start], _sha256(content, start, end), memoryview(content)[end:]))


def _sha256(content: bytes, start: int, end: int) -> bytes:
    whole = memoryview(content)  # no copies: weights are written thousands of times
    digest = hashlib.sha256(whole[:start])
    digest.update(ZEROS.encode())
    digest.update(whole[end:])
    return digest.hexdigest().encode()


class Session:
    """A Store as several Steps of one client see it in one invocation: what one wrote, the next has in memory.

    scratch: last words of the names that only these Steps read; they never reach the store below.
    """

    def __init__(self, store: Store, scratch: tuple[str, ...]) -> None:
        self.store, self.scratch, self.url = store, scratch, store.url
        self._seen: dict[str, dict[str, Tensor]] = {}

    def put(self, name: str, tensors: dict[str, Tensor]) -> None:
        """See Store.put; a copy stays here, as the model that is stored goes on training."""
        self._seen[name] = {key: tensor.clone() for key, tensor in tensors.items()}
        if name.rpartition("/")[2] not in self.scratch:
            self.store.put(name, tensors)

    def get(self, name: str, most: int | None = None) -> dict[str, Tensor]:
        """See Store.get."""
        if name not in self._seen:
            self._seen[name] = self.store.get(name, most)
        return self._seen[name]

    def get_json(self, name: str) -> object:
        """See Store.get_json."""
        return self.store.get_json(name)

    def exists(self, name: str) -> bool:
        """See Store.exists."""
        return name in self._seen or self.store.exists(name)
