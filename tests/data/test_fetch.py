"""kdlib.data.fetch against a real HTTP server on 127.0.0.1 and archives in the official layouts."""

import gzip
import hashlib
import io
import struct
import zipfile

import filelock
import numpy as np
import pytest

from kdlib.data import fetch, sets
from kdlib.errors import KdlibError

FILES = {"x_train": "train-images", "y_train": "train-labels", "x_test": "test-images", "y_test": "test-labels"}


@pytest.fixture
def arrays():
    """The arrays of a small data set with labels from 1, as EMNIST letters has them."""
    rng = np.random.default_rng(0)
    return {"x_train": rng.integers(0, 256, (60, 7, 5), np.uint8), "y_train": rng.integers(1, 27, 60, np.uint8),
            "x_test": rng.integers(0, 256, (12, 7, 5), np.uint8), "y_test": rng.integers(1, 27, 12, np.uint8)}


@pytest.fixture
def get(tmp_path):
    """fetch() into a folder of its own, without a bar."""
    return lambda name, registry: fetch.fetch(name, tmp_path / "data", registry, progress=False)


@pytest.fixture
def publish(server, tmp_path):
    """Puts the files on the server and returns a registry with their hashes; `hashes` overrules some of them.

    One zip file makes the data set `letters`, in EMNIST's layout; four idx files make `digits_idx`, in MNIST's.
    """

    def archive(name, content, hashes):
        server.files[name] = content
        digest = hashes.get(name, f"sha256:{hashlib.sha256(content).hexdigest()}")
        return f'file = "{name}"\nurl = "{server.url}/{name}"\nhash = "{digest}"\n'

    def write(files: dict[str, bytes], **hashes):
        about = 'about = "a test"\npublished = "this file"\n'
        if "letters.zip" in files:
            members = "".join(f'{array} = "{member(array)}"\n' for array in FILES)
            text = (f'[letters]\n{about}layout = "zip-idx"\ntransposed = true\nfirst_label = 1\n'
                    f'[letters.archive]\n{archive("letters.zip", files["letters.zip"], hashes)}'
                    f"[letters.members]\n{members}")
        else:
            tables = [f"[digits_idx.files.{array}]\n{archive(array, files[array], hashes)}" for array in FILES]
            text = f'[digits_idx]\n{about}layout = "idx"\nfirst_label = 1\n' + "".join(tables)
        path = tmp_path / "registry.toml"
        path.write_text(text)
        return path

    return write


def idx(array, shape=None, magic=None):
    """A gzipped idx file of the array; `shape` and `magic` say something else than the truth in its header."""
    shape = array.shape if shape is None else shape
    head = bytes([0, 0, 8, array.ndim]) if magic is None else magic
    return gzip.compress(head + struct.pack(f">{len(shape)}I", *shape) + array.tobytes(), mtime=0)


def member(array):
    return f"gzip/emnist-letters-{FILES[array]}-idx.gz"


def zipped(arrays, extra=()):
    """A zip archive in EMNIST's layout, images transposed; extra: names of further members."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            archive.writestr(member(name), idx(array.swapaxes(1, 2) if array.ndim == 3 else array))
        for name in extra:
            archive.writestr(name, "evil")
    return {"letters.zip": file.getvalue()}


def flat(arrays):
    return {name: idx(array) for name, array in arrays.items()}


def assert_fetched(path, arrays):
    with np.load(path, allow_pickle=False) as found:
        assert sorted(found.files) == sorted(arrays)
        for name, array in arrays.items():
            assert found[name].dtype == np.uint8
            np.testing.assert_array_equal(found[name], array if array.ndim == 3 else array - 1)


def leftovers(folder):
    """Every file in the folder that is no lock."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.name != ".lock")


@pytest.mark.parametrize(("name", "pack"), [("digits_idx", flat), ("letters", zipped)])
def test_both_layouts(name, pack, arrays, publish, get, monkeypatch):
    registry = publish(pack(arrays))
    path = get(name, registry)
    assert_fetched(path, arrays)

    monkeypatch.setenv("KDLIB_DATA", str(path.parent))
    train, test = sets.load(name)
    np.testing.assert_array_equal(train.x, arrays["x_train"])
    np.testing.assert_array_equal(test.y, arrays["y_test"].astype(np.int64) - 1)


def test_what_is_there_is_left_alone(arrays, publish, get, server, tmp_path):
    path = tmp_path / "data/letters.npz"
    path.parent.mkdir()
    path.write_text("mine")
    assert get("letters", publish(zipped(arrays))) == path
    assert path.read_text() == "mine" and server.asked == []


def test_converted_again_without_a_download(arrays, publish, get, server):
    registry = publish(zipped(arrays))
    get("letters", registry).unlink()
    assert_fetched(get("letters", registry), arrays)
    assert len(server.asked) == 1


def test_progress_in_bytes(arrays, publish, tmp_path, capsys):
    fetch.fetch("letters", tmp_path, publish(zipped(arrays)))
    assert "letters.zip" in (shown := capsys.readouterr().err) and "100%" in shown and "B/s" in shown


def test_wrong_hash(arrays, publish, get, tmp_path):
    files = zipped(arrays)
    right, wrong = hashlib.md5(files["letters.zip"]).hexdigest(), "0" * 32
    with pytest.raises(KdlibError, match=rf"letters\.zip.*{wrong}.*{right}"):
        get("letters", publish(files, **{"letters.zip": f"md5:{wrong}"}))
    assert leftovers(tmp_path / "data") == []
    assert_fetched(get("letters", publish(files, **{"letters.zip": f"md5:{right}"})), arrays)


def test_a_cut_transfer_resumes_within_the_call(arrays, publish, get, server):
    files = zipped(arrays)
    size = len(files["letters.zip"])
    registry, server.cuts = publish(files), 1
    assert_fetched(get("letters", registry), arrays)
    assert server.asked == [None, f"bytes={size // 2}-"]
    assert server.sent == size


def test_a_cut_transfer_resumes_in_the_next_call(arrays, publish, get, server, tmp_path):
    files = zipped(arrays)
    registry, server.cuts = publish(files), 3
    with pytest.raises(KdlibError, match=rf"cannot get {server.url}/letters\.zip: .*next call goes on"):
        get("letters", registry)
    assert leftovers(tmp_path / "data") == ["letters.zip.part"]
    kept = (tmp_path / "data/downloads/letters.zip.part").stat().st_size
    assert 0 < kept == server.sent

    assert_fetched(get("letters", registry), arrays)
    assert server.asked[3:] == [f"bytes={kept}-"]
    assert server.sent == len(files["letters.zip"])
    assert leftovers(tmp_path / "data") == ["letters.npz", "letters.zip"]


def test_a_server_that_ignores_range(arrays, publish, get, server):
    registry, server.cuts, server.ranges = publish(zipped(arrays)), 1, False
    assert_fetched(get("letters", registry), arrays)
    assert len(server.asked) == 2 and server.asked[1]


def test_a_part_longer_than_the_file_starts_anew(arrays, publish, get, server, tmp_path):
    files = zipped(arrays)
    size = len(files["letters.zip"]) + 1
    part = tmp_path / "data/downloads/letters.zip.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(size))
    assert_fetched(get("letters", publish(files)), arrays)
    assert server.asked == [f"bytes={size}-", None]


def test_a_file_that_is_not_there(arrays, publish, get, server):
    registry = publish(zipped(arrays))
    server.files.clear()
    with pytest.raises(KdlibError, match=r"letters\.zip: the server answered 404 Not Found"):
        get("letters", registry)
    assert len(server.asked) == 1


def test_a_server_that_is_down(arrays, publish, get, server):
    registry = publish(zipped(arrays))
    server.server_close()
    with pytest.raises(KdlibError, match=rf"cannot get {server.url}/letters\.zip: .*refused"):
        get("letters", registry)


def test_an_endless_download(arrays, publish, get, monkeypatch, tmp_path):
    monkeypatch.setattr(fetch, "LARGEST", 1000)
    with pytest.raises(KdlibError, match=r"sends more than 1,000 bytes"):
        get("letters", publish(zipped(arrays)))
    assert leftovers(tmp_path / "data") == ["letters.zip.part"]


def test_one_download_at_a_time(arrays, publish, get, tmp_path):
    registry = publish(zipped(arrays))
    (tmp_path / "data/downloads").mkdir(parents=True)
    with (filelock.FileLock(tmp_path / "data/downloads/.lock"),
          pytest.raises(KdlibError, match="another process is downloading")):
        get("letters", registry)


@pytest.mark.parametrize("name", ["../evil", "gzip/../../evil", "/evil", "..\\evil", "C:\\evil"])
def test_a_member_outside_of_the_archive(name, arrays, publish, get, tmp_path):
    with pytest.raises(KdlibError) as caught:
        get("letters", publish(zipped(arrays, extra=[name])))
    assert f"'{name}'" in str(caught.value)
    assert leftovers(tmp_path) == ["letters.zip", "registry.toml"]


def test_a_member_is_missing(arrays, publish, get):
    del arrays["y_test"]
    with pytest.raises(KdlibError, match=r"letters\.zip cannot be read: .*test-labels"):
        get("letters", publish(zipped(arrays)))


def test_no_zip_archive(publish, get):
    with pytest.raises(KdlibError, match=r"letters\.zip cannot be read: .*not a zip"):
        get("letters", publish({"letters.zip": b"<html>"}))


X = np.ones((60, 7, 5), np.uint8)
Y = np.ones(60, np.uint8)


@pytest.mark.parametrize(("name", "content", "says"), [
    ("x_train", idx(X)[:-20], "x_train cannot be read: .*ended before"),
    ("x_train", idx(X)[:10] + b"\xff" + idx(X)[11:], "x_train cannot be read: .*invalid"),
    ("x_train", b"<html>", "x_train cannot be read: Not a gzipped file"),
    ("x_train", gzip.compress(b"", mtime=0), "begins with ; it must have the idx header 00000803"),
    ("x_train", gzip.compress(bytes([0, 0, 8, 3, 0]), mtime=0), "begins with 00000803"),
    ("x_train", idx(X, magic=bytes([0, 0, 13, 3])), "begins with 00000d03; it must have the idx header 00000803"),
    ("x_train", idx(Y), "begins with 00000801; it must have the idx header 00000803"),
    ("y_train", idx(X), "begins with 00000803; it must have the idx header 00000801"),
    ("x_train", idx(X, shape=(61, 7, 5)), "holds less than the 2,135 bytes"),
    ("x_train", idx(X, shape=(59, 7, 5)), "holds more than the 2,065 bytes"),
    ("x_train", idx(X, shape=(2**31, 1, 2)), "announces 4,294,967,296 bytes; allowed: 1 to 2,147,483,648"),
    ("x_train", idx(X, shape=(60, 0, 5)), "announces 0 bytes"),
    ("y_train", idx(Y[:-1]), "60 images in x_train, but 59 labels in y_train"),
    ("y_train", idx(Y - 1), "label 0 in y_train; allowed: from 1"),
])  # fmt: skip
def test_damaged_content(name, content, says, arrays, publish, get, tmp_path):
    with pytest.raises(KdlibError, match=says) as caught:
        get("digits_idx", publish(flat(arrays) | {name: content}))
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "data").glob("*.npz*")) == []


def test_damage_inside_a_zip_names_file_and_member(arrays, publish, get):
    content = zipped(arrays)["letters.zip"]
    at = content.index(idx(arrays["y_test"]))
    with pytest.raises(KdlibError, match=r"letters\.zip: gzip/emnist-letters-test-labels-idx\.gz cannot be read"):
        get("letters", publish({"letters.zip": content[:at] + b"\0" + content[at + 1:]}))


def test_unknown_name(arrays, publish, get):
    with pytest.raises(KdlibError, match="unknown data set 'cifar'; allowed: letters"):
        get("cifar", publish(zipped(arrays)))


def test_a_folder_that_cannot_be(arrays, publish, get, tmp_path):
    (tmp_path / "data").write_text("a file")
    with pytest.raises(KdlibError, match="cannot fetch letters"):
        get("letters", publish(zipped(arrays)))


@pytest.mark.parametrize(("old", "new", "says"), [
    ("sha256:", "sha1:", "letters.zip-idx.archive.hash: "),
    ("http://", "ftp://", "letters.zip-idx.archive.url: "),
    ('"letters.zip"', '"../letters.zip"', "letters.zip-idx.archive.file: "),
    ("[letters", "[Letters", "Letters.*: string should match pattern"),
    ('"zip-idx"', '"tar"', "letters: .*'zip-idx'"),
    ("about", "abuot", "letters.zip-idx.about: field required"),
    ("x_test =", "x_val =", "x_val"),
    ("first_label = 1", "first_label = -1", "letters.zip-idx.first_label: "),
    ("first_label = 1", "last_label = 1", "unknown setting 'letters.zip-idx.last_label'"),
    ("first_label = 1", "first_label", "line 6"),
])  # fmt: skip
def test_a_bad_registry(old, new, says, arrays, publish):
    path = publish(zipped(arrays))
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(KdlibError, match=says) as caught:
        fetch.available(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_no_registry(tmp_path):
    with pytest.raises(KdlibError, match=r"cannot read the data registry .*none\.toml: No such file"):
        fetch.available(tmp_path / "none.toml")


def test_the_list(arrays, publish):
    registry = publish(zipped(arrays))
    assert fetch.available(registry) == ["letters"]
    assert fetch.describe(registry) == {"letters": ("a test", "letters.npz")}


def test_the_built_in_registry():
    assert fetch.available() == ["cifar10", "cifar100", "emnist_letters", "mnist", "nietzsche", "shakespeare"]
