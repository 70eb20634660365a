"""Arrays of a .npz file, whose headers are believed no further than the file's own size bears them out."""

import math
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kdlib.errors import KdlibError
from kdlib.files import expect_file

LARGEST = 4 * 2**30  # bytes, unpacked: far above any data set here, far below what hurts a laptop

# Whatever zipfile, zlib and NumPy's parser of headers raise for what is damaged, encrypted or made up.
DAMAGES = (zipfile.BadZipFile, ValueError, OSError, EOFError, zlib.error, RuntimeError, SyntaxError, MemoryError,
           OverflowError, TypeError, KeyError, tokenize.TokenError)


def read(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Name -> array. Raises KdlibError where the file is none, lacks one, or announces more than it holds."""
    try:
        expect_file(path)
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > LARGEST:
                raise KdlibError(f"{path} unpacks to more than {LARGEST >> 30} GiB; allowed: less")
            there = set(archive.namelist())
            if missing := [name for name in names if f"{name}.npy" not in there]:
                raise KdlibError(f"{path} has no {', '.join(missing)}; it must hold {', '.join(names)}")
            for name in names:
                _expect_whole(path, archive, f"{name}.npy")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names}
    except DAMAGES as error:
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise KdlibError(f"{path} is damaged or no .npz file: {why}") from error


def _expect_whole(path: Path, archive: zipfile.ZipFile, member: str) -> None:
    """Raises KdlibError where the array's header announces another size than the member has."""
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0}.get(version, np.lib.format.read_array_header_2_0)
        shape, _, dtype = read_header(stream)
        if dtype.hasobject:
            raise ValueError("it holds Python objects, which are not loaded")
        announced, held = math.prod(shape) * dtype.itemsize, archive.getinfo(member).file_size - stream.tell()
    if announced != held:
        raise KdlibError(f"{path}: {member} announces {announced:,} bytes of {dtype} {list(shape)} and holds {held:,}; "
                         "it must hold what it announces")
