"""Named tensors at an fsspec URL: what Steps read and write. Never pickle."""

import contextlib
import os
import re

import fsspec
import safetensors
import safetensors.torch
from torch import Tensor

from kdlib.errors import KdlibError

NAME = re.compile(r"[a-z0-9][a-z0-9_-]*(/[a-z0-9][a-z0-9_-]*)*")


class Store:
    """Objects under one root, each written whole or not at all.

    url: any that fsspec knows: a folder, memory://name, s3://bucket/prefix ...
    bytes_in, bytes_out: what was read and written through this instance.
    Names are lower-case words joined by `/`; anything else, `..` among it, raises KdlibError.
    """

    def __init__(self, url: str):
        self.url = url
        self.fs, self.root = fsspec.url_to_fs(url)
        self.bytes_in = 0
        self.bytes_out = 0

    def put(self, name: str, tensors: dict[str, Tensor]) -> None:
        """Write named tensors of any shape and dtype. Equal tensors give equal bytes."""
        self._write(f"{self._path(name)}.safetensors",
                    safetensors.torch.save({key: tensor.contiguous() for key, tensor in tensors.items()}))

    def get(self, name: str) -> dict[str, Tensor]:
        """The tensors that `put` wrote. Raises KdlibError where the object is missing or damaged."""
        try:
            return safetensors.torch.load(self._read(f"{self._path(name)}.safetensors"))
        except safetensors.SafetensorError as error:
            raise KdlibError(f"{name} in {self.url} is damaged: {error}") from error

    def names(self) -> list[str]:
        """Every object's name, sorted."""
        found = self.fs.find(self.root)
        return sorted(path.removeprefix(self.root).lstrip("/").removesuffix(".safetensors")
                      for path in found if path.endswith(".safetensors"))

    def delete(self, name: str) -> None:
        """Remove a tensor object; one that is gone already is well."""
        with contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(f"{self._path(name)}.safetensors")

    def content(self, name: str) -> bytes:
        """The bytes of a tensor object as they lie, for hashing."""
        return self._read(f"{self._path(name)}.safetensors")

    def _path(self, name):
        if not NAME.fullmatch(name):
            raise KdlibError(f"'{name[:80]}' is no name for an object; allowed: lower-case words joined by /")
        return f"{self.root}/{name}"

    def _read(self, path) -> bytes:
        try:
            content = self.fs.cat_file(path)
        except FileNotFoundError as error:
            raise KdlibError(f"{path.removeprefix(self.root + '/')} is not in {self.url}") from error
        self.bytes_in += len(content)
        return content

    def _write(self, path, content):
        self.bytes_out += len(content)
        if "file" not in self.fs.protocol:
            self.fs.pipe_file(path, content)  # memory and object stores put whole objects
            return
        self.fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        beside = f"{path}.{os.getpid()}.part"
        try:
            self.fs.pipe_file(beside, content)
            self.fs.mv(beside, path)
        finally:
            if self.fs.exists(beside):
                self.fs.rm_file(beside)
