"""Files that are damaged, hostile or no files: one line each, at once and in little memory."""

import os
import resource
import struct
import zipfile

import numpy as np
import pytest

from kdlib.data import npz, sets
from kdlib.errors import KdlibError
from kdlib.files import content

X = np.zeros((8, 10, 10), np.uint8)
NAMES = ("x_train", "y_train", "x_test", "y_test")


def header(text, version=1):
    """The beginning of a .npy file."""
    text = text.encode("latin1") + b"\n"
    size = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + size + text


def claim(shape, kind="|u1", version=1):
    return header(f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}", version)


@pytest.fixture
def hostile(tmp_path):
    """Write own.npz whose x_train.npy has those bytes."""

    def write(member):
        path = tmp_path / "own.npz"
        np.savez(path, **{name: X if name[0] == "x" else np.zeros(8, int) for name in NAMES[1:]})
        with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x_train.npy", member)
        return path

    return write


@pytest.mark.parametrize("member", [
    claim("(1000000000000, 28, 28)"), claim("(8, 10, 10)"), claim("(8, 10, 10)") + bytes(801),
    claim("(4294967296, 4294967296)", "<f8"), claim("(8, 10, 10)", "|O"), claim("(" + "9" * 5000 + ",)"),
    claim("(" + "9" * 5000 + ",)", version=2), header("(" * 3000), header("[" * 9000, 2), header("{'descr': "), b"",
    b"x", b"\x93NUMPY\x09\x00", claim("(-8, 10, 10)") + bytes(800), claim("(True,)") + b"0", claim("(8.0,)"),
    claim("7"), claim("(8,)", "nothing"), header("{}"), b"\x93NUMPY\x02\x00\xff\xff\xff\xff",
], ids=range(20))
def test_a_header_that_claims_what_is_not_there_is_one_line(member, hostile):
    path = hostile(member)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(KdlibError, match=r"own\.npz") as error:
        npz.read(path, NAMES)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000, "KiB"


def test_an_encrypted_file_is_one_line(hostile):
    path = hostile(claim("(8, 10, 10)") + bytes(800))
    whole = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("x_train.npy").header_offset
    directory = whole.rindex(b"PK\x01\x02")
    whole[start + 6] |= 1
    whole[directory + 8] |= 1
    path.write_bytes(whole)
    with pytest.raises(KdlibError, match=r"own\.npz is damaged or no \.npz file: .*encrypted"):
        npz.read(path, NAMES)


def test_a_whole_file_is_read(hostile):
    path = hostile(claim("(8, 10, 10)") + bytes(range(200)) * 4)
    assert npz.read(path, NAMES)["x_train"].ravel()[:200].tolist() == list(range(200))


def test_a_pipe_and_a_device_are_no_files(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_DATA", str(tmp_path))
    os.mkfifo(tmp_path / "own.npz")
    (tmp_path / "zeros.npz").symlink_to("/dev/zero")
    for name in ("own", "zeros"):
        with pytest.raises(KdlibError, match=rf"{name}\.npz is a pipe or a device; allowed: a file"):
            sets.load(name)


def test_no_more_is_read_than_there_may_be(tmp_path):
    (tmp_path / "a").write_bytes(bytes(11))
    assert content(tmp_path / "a", 11) == bytes(11)
    with pytest.raises(KdlibError, match="a has more than 10 bytes; allowed: no more"):
        content(tmp_path / "a", 10)
    with pytest.raises(IsADirectoryError):
        content(tmp_path, 10)
