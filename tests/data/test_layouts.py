"""kdlib.data.layouts: archives in the official layouts, fetched from a real HTTP server on 127.0.0.1."""

import gzip
import hashlib
import io
import json
import tarfile
import zipfile

import numpy as np
import pytest
from test_leaf import COMEDY, PLAY, SONNETS

from kdlib.data import fetch, leaf, sets
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
    assert sets.load("pictures").train.x.shape == (10, *SHAPE)


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


@pytest.fixture
def publish_one(server, tmp_path):
    """Puts one archive on the server and returns a registry in which it is the data set `words`, of that layout."""

    def write(content, layout, hash_line="", more=""):
        server.files["words.bin"] = content
        path = tmp_path / "registry.toml"
        path.write_text(f'[words]\nabout = "a test"\npublished = "this file"\nlayout = "{layout}"\n{more}'
                        f'[words.archive]\nfile = "words.bin"\nurl = "{server.url}/words.bin"\n{hash_line}')
        return path

    return write


def hash_of(content):
    return f'hash = "sha256:{hashlib.sha256(content).hexdigest()}"\n'


def test_a_text_is_kept_as_it_is(publish_one, get):
    content = "Ecce homo,\r\nä\n".encode()
    path = get("words", publish_one(content, "text", hash_of(content)))
    assert path.name == "words.txt" and path.read_bytes() == content


@pytest.mark.parametrize(("content", "line", "says"), [
    (b"\xff\xfe", hash_of(b"\xff\xfe"), "is no UTF-8 text"), (b"another", hash_of(b"this"), "words.bin.*hash"),
    (b"none", "", "data registry .*archive.hash: field required"),
])
def test_a_text_that_is_none_or_another_is_refused(content, line, says, publish_one, get, tmp_path):
    with pytest.raises(KdlibError, match=says):
        get("words", publish_one(content, "text", line))
    assert not list((tmp_path / "data").glob("words*"))


TEXT = SONNETS + PLAY + COMEDY
ROLES = f'sha256:{hashlib.sha256(json.dumps(leaf.roles(TEXT)).encode()).hexdigest()}'


def zipped(text, member="100.txt"):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, text)
    return file.getvalue()


def plays(roles=ROLES):
    return f'member = "100.txt"\nroles = "{roles}"\n'


@pytest.mark.parametrize("ends", ["\n", "\r\n"], ids=["as Unix ends lines", "as Gutenberg did"])
@pytest.mark.parametrize("hashed", [False, True], ids=["by its roles alone", "by its own hash too"])
def test_plays_become_roles(hashed, ends, publish_one, get, server):
    content = zipped(TEXT.replace("\n", ends))
    registry = publish_one(content, "leaf-plays", hash_of(content) if hashed else "", plays())
    path = get("words", registry)
    assert path.name == "words.json.gz" and json.loads(gzip.decompress(path.read_bytes())) == leaf.roles(TEXT)
    first = path.read_bytes()
    path.unlink()
    assert get("words", registry).read_bytes() == first and len(server.asked) == 1


@pytest.mark.parametrize(("content", "says"), [
    (zipped(TEXT.replace("Again.", "Once more.")), f"roles in words.bin have the hash .*; expected: {ROLES}"),
    (zipped("no play"), "words.bin cannot be read: it holds no play"), (zipped(b"\xff"), "words.bin is no UTF-8 text"),
    (zipped(TEXT, "101.txt"), "words.bin cannot be read: .*100.txt"), (b"<html>", "words.bin cannot be read: .*zip"),
    (zipped(TEXT)[:300], "words.bin cannot be read"),
])
def test_other_plays_are_refused_and_fetched_anew(content, says, publish_one, get, tmp_path):
    with pytest.raises(KdlibError, match=says) as error:
        get("words", publish_one(content, "leaf-plays", more=plays()))
    assert "\n" not in str(error.value) and not list((tmp_path / "data").rglob("words*"))
    assert get("words", publish_one(zipped(TEXT), "leaf-plays", more=plays())).is_file()


def test_a_member_that_would_fill_the_memory_is_refused(publish_one, get, monkeypatch):
    from kdlib.data import layouts

    monkeypatch.setattr(layouts, "LARGEST", 100)
    with pytest.raises(KdlibError, match=r"100\.txt has more than 100 bytes"):
        get("words", publish_one(zipped(TEXT), "leaf-plays", more=plays()))


def test_the_real_roles_have_the_hash_that_fetch_expects():
    path = sets.folder() / "shakespeare.json.gz"
    if not path.is_file():
        pytest.skip("shakespeare.json.gz is not in KDLIB_DATA or the user's cache")
    with gzip.open(path) as file:
        found = json.dumps(dict(sorted(json.load(file).items())))
    expected = fetch._load(fetch.BUILT_IN_REGISTRY)["shakespeare"].roles
    assert f"sha256:{hashlib.sha256(found.encode()).hexdigest()}" == expected
