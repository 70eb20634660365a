import os
import uuid

import pytest
import torch

from kdlib.errors import KdlibError
from kdlib.store import Store

TENSORS = {
    "float": torch.randn(3, 4), "half": torch.ones(2, dtype=torch.bfloat16),
    "bytes": torch.arange(5, dtype=torch.uint8), "scalar": torch.tensor(7), "empty": torch.zeros(0, 3),
    "bool": torch.tensor([True, False]), "part": torch.arange(10)[::2],
    "channels_last": torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
}


@pytest.fixture(params=["folder", "memory"])
def url(request, tmp_path):
    return str(tmp_path / "store") if request.param == "folder" else f"memory://{uuid.uuid4().hex}"


@pytest.fixture
def store(url):
    return Store(url)


def test_what_is_put_is_got(store, url):
    store.put("client-0001/003/weights", TENSORS)
    for reader in (store, Store(url)):
        found = reader.get("client-0001/003/weights")
        assert found.keys() == TENSORS.keys()
        for name, tensor in TENSORS.items():
            assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


def test_a_second_put_replaces_the_first(store):
    for value in (1, 2):
        store.put("a/b", {"x": torch.tensor([value])})
    assert store.get("a/b")["x"].item() == 2 and store.names() == ["a/b"]


def test_equal_tensors_give_equal_bytes(store):
    store.put("one", TENSORS)
    store.put("two", {name: TENSORS[name].clone() for name in reversed(TENSORS)})
    store.put("other", TENSORS | {"scalar": torch.tensor(8)})
    assert store.content("one") == store.content("two") != store.content("other")


def test_names_are_sorted_and_whole(store):
    assert store.names() == []
    for name in ("public/test", "client-0001/002/weights", "a"):
        store.put(name, {"x": torch.zeros(1)})
    assert store.names() == ["a", "client-0001/002/weights", "public/test"]


def test_delete_may_be_repeated(store):
    store.put("a/b", TENSORS)
    store.put("a/c", TENSORS)
    store.delete("a/b")
    store.delete("a/b")
    store.delete("never/was")
    assert store.names() == ["a/c"]


@pytest.mark.parametrize("call", ["get", "content", "delete", "put"])
@pytest.mark.parametrize("name", ["", "/", "..", "../a", "a/../b", "/a", "a//b", "a/", "A", "a b", "a.b", "a\\b", "é",
                                  "a\n"])
def test_other_names_are_refused(name, call, store):
    arguments = (TENSORS,) if call == "put" else ()
    with pytest.raises(KdlibError, match="is no name for an object; allowed: lower-case words joined by /"):
        getattr(store, call)(name, *arguments)
    assert store.names() == []


def test_a_missing_object_is_named(store, url):
    with pytest.raises(KdlibError, match=r"a/b.*is not in ") as error:
        store.get("a/b")
    assert url in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("keep", [0, 4, 8, -1])
def test_a_truncated_object_is_named(keep, store):
    store.put("a/b", TENSORS)
    path = f"{store.root}/a/b.safetensors"
    store.fs.pipe_file(path, store.content("a/b")[:keep])
    with pytest.raises(KdlibError, match=r"a/b in .* is damaged: "):
        store.get("a/b")


@pytest.mark.parametrize("fails", ["pipe_file", "mv"])
@pytest.mark.parametrize("before", [None, {"x": torch.tensor([1])}], ids=["new", "replaced"])
def test_a_failed_write_leaves_what_was_there(fails, before, tmp_path, monkeypatch):
    store = Store(str(tmp_path))
    if before:
        store.put("a/b", before)

    def break_off(path, content):
        if fails == "pipe_file":  # a full disk: a part of the bytes arrived
            with open(path, "wb") as file:  # noqa: PTH123 (fsspec's path)
                file.write(content[:10])
        raise OSError("no space left on device")

    monkeypatch.setattr(store.fs, fails, break_off)
    with pytest.raises(OSError, match="no space"):
        store.put("a/b", {"x": torch.tensor([2])})
    assert [name for _, _, names in os.walk(tmp_path) for name in names] == (["b.safetensors"] if before else [])
    assert not before or store.get("a/b")["x"].item() == 1


def test_bytes_in_and_out_are_counted(store, url):
    store.put("a", TENSORS)
    size = len(Store(url).content("a"))
    assert (store.bytes_in, store.bytes_out) == (0, size)
    store.get("a")
    store.content("a")
    assert (store.bytes_in, store.bytes_out) == (2 * size, size)
