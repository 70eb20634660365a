"""kdlib.layouts: archives in the official layouts, fetched from a real HTTP server on 127.0.0.1."""

import hashlib
import io
import tarfile

import numpy as np
import pytest

from kdlib import data, fetch
from kdlib.errors import KdlibError

SHAPE = (4, 3, 3)  # height, width, channels
MEMBERS = {"train": ("bin/train_1.bin", "bin/train_2.bin"), "test": ("bin/test.bin",)}


@pytest.fixture
def get(tmp_path):
    """fetch() into a folder of its own, without a bar."""
    return lambda name, registry: fetch.fetch(name, tmp_path / "data", registry, progress=False)


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {f"{kind}_{split}": rng.integers(0, 256, (items, *(SHAPE if kind == "x" else ())), np.uint8)
            for split, items in (("train", 10), ("test", 4)) for kind in "xy"}


@pytest.fixture
def publish(server, tmp_path):
    """Puts the archive on the server and returns a registry in which it is the data set `pictures`."""

    def write(content, labels=2, digest=None):
        server.files["pictures.tar.gz"] = content
        digest = digest or f"sha256:{hashlib.sha256(content).hexdigest()}"
        path = tmp_path / "registry.toml"
        path.write_text(f'[pictures]\nabout = "a test"\npublished = "this file"\nlayout = "tar-records"\n'
                        f'labels = {labels}\nshape = {list(SHAPE)}\n[pictures.archive]\nfile = "pictures.tar.gz"\n'
                        f'url = "{server.url}/pictures.tar.gz"\nhash = "{digest}"\n[pictures.members]\n'
                        f'train = {list(MEMBERS["train"])}\ntest = {list(MEMBERS["test"])}\n')
        return path

    return write


def records(x, y, labels):
    """CIFAR's binary version, written pixel by pixel: labels, then all of red, all of green, all of blue."""
    lines = []
    for image, label in zip(x, y, strict=True):
        planes = [int(image[row, column, channel]) for channel in range(SHAPE[2]) for row in range(SHAPE[0])
                  for column in range(SHAPE[1])]
        lines.append(bytes([99] * (labels - 1) + [int(label)] + planes))
    return b"".join(lines)


def packed(arrays, labels=2, instead=None, extra=()):
    """A gzipped tar archive; instead: member -> other content; extra: TarInfo of further members."""
    x, y = arrays["x_train"], arrays["y_train"]
    contents = dict(zip((*MEMBERS["train"], *MEMBERS["test"]), (
        records(x[:6], y[:6], labels), records(x[6:], y[6:], labels),
        records(arrays["x_test"], arrays["y_test"], labels)), strict=True)) | (instead or {})
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, content in [("bin/readme.html", b"<html>"), *contents.items()]:
            if content is not None:
                there = tarfile.TarInfo(name)
                there.size = len(content)
                archive.addfile(there, io.BytesIO(content))
        for there in extra:
            archive.addfile(there)
    return file.getvalue()


@pytest.mark.parametrize("labels", [1, 2], ids=["as CIFAR-10", "as CIFAR-100"])
def test_records_become_images_and_their_last_label(labels, arrays, publish, get, monkeypatch):
    path = get("pictures", publish(packed(arrays, labels), labels))
    with np.load(path, allow_pickle=False) as found:
        assert sorted(found.files) == sorted(arrays)
        for name, array in arrays.items():
            assert found[name].dtype == np.uint8
            np.testing.assert_array_equal(found[name], array)
    monkeypatch.setenv("KDLIB_DATA", str(path.parent))
    assert data.load("pictures").train.x.shape == (10, *SHAPE)


def test_nothing_is_read_before_the_hash_is_right(arrays, publish, get, tmp_path):
    with pytest.raises(KdlibError, match=r"pictures\.tar\.gz.*0{32}"):
        get("pictures", publish(b"no archive at all", digest=f"md5:{'0' * 32}"))
    assert [path.name for path in (tmp_path / "data").rglob("*") if path.suffix != ".lock" and path.is_file()] in (
        [], [".lock"])


def link(name, target):
    there = tarfile.TarInfo(name)
    there.type, there.linkname = tarfile.SYMTYPE, target
    return there


@pytest.mark.parametrize(("change", "says"), [
    ({"extra": [tarfile.TarInfo("../evil")]}, r"refused: its member '\.\./evil' leaves"),
    ({"extra": [tarfile.TarInfo("/evil")]}, r"refused: its member '/?evil' leaves"),
    ({"instead": {"bin/test.bin": None}}, r"cannot be read: .*bin/test\.bin"),
    ({"instead": {"bin/test.bin": None}, "extra": [link("bin/test.bin", "/etc/passwd")]}, "is a link"),
    ({"instead": {"bin/test.bin": b"x" * 37}}, "has 37 bytes; it must hold records of 38 bytes each"),
    ({"instead": {"bin/test.bin": b""}}, "has 0 bytes"),
])
def test_an_archive_of_another_content_is_refused(change, says, arrays, publish, get, tmp_path):
    with pytest.raises(KdlibError, match=says) as error:
        get("pictures", publish(packed(arrays, **change)))
    assert "\n" not in str(error.value) and not list((tmp_path / "data").glob("*.npz*"))


@pytest.mark.parametrize("damage", [lambda whole: whole[: len(whole) // 2], lambda whole: b"<html>"],
                         ids=["truncated", "no archive"])
def test_a_damaged_archive_is_named(damage, arrays, publish, get):
    with pytest.raises(KdlibError, match=r"pictures\.tar\.gz cannot be read: ."):
        get("pictures", publish(damage(packed(arrays))))
