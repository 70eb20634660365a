"""What is put into a store is got from it, whole, by everybody who may: in a folder, in memory and over S3."""

import json
import threading

import pytest
import safetensors
import torch
from stored import TENSORS, VALUE

from kdlib.errors import Damaged, KdlibError, Missing
from kdlib.store import store as store_module
from kdlib.store.store import Store


def test_every_owner_has_a_place_of_its_own(url):
    runs = [Store(f"{url}/{{owner}}/{key}") for key in ("0a", "0b")]
    names = ["client-0003/001/weights", "private/client-0003/data", "public/cohort/001"]
    for store in runs:
        for name in names:
            store.put(name, TENSORS)
        store.put_json(names[2], 1)
    assert runs[0].names() == [*names, "public/cohort/001.json"]
    assert Store(f"{url}/private/client-0003/0b").names() == ["data"]
    assert Store(f"{url}/client-0003/0a").names() == ["001/weights"]
    runs[0].delete("client-0003/001/weights")
    assert runs[0].names() == [*names[1:], "public/cohort/001.json"] and names[0] in runs[1].names()
    assert runs[0].content(names[1]) == runs[1].content(names[1])
    for name in ("alone", "private/client-0003"):
        with pytest.raises(KdlibError, match=f"^'{name}' names no owner; allowed in .*: OWNER/"):
            runs[0].put(name, TENSORS)


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


def test_other_readers_of_safetensors_can_read_an_object(store, tmp_path):
    store.put("one", TENSORS)
    (tmp_path / "copy").write_bytes(store.content("one"))
    with safetensors.safe_open(tmp_path / "copy", framework="pt") as file:
        assert set(file.keys()) == TENSORS.keys() and file.metadata().keys() == {"sha256"}
        assert all(torch.equal(file.get_tensor(name), tensor) for name, tensor in TENSORS.items())


@pytest.mark.parametrize("value", [VALUE, None, 0, "", [], {}, [1, "a"]], ids=repr)
def test_json_that_is_put_is_got(value, store, url):
    store.put_json("public/experiment", {"other": 1})
    store.put_json("public/experiment", value)
    assert store.get_json("public/experiment") == Store(url).get_json("public/experiment") == value


def test_equal_json_gives_equal_bytes(store):
    store.put_json("one", VALUE)
    store.put_json("two", dict(reversed(VALUE.items())))
    one, two = (store.fs.cat_file(f"{store.root}/{name}.json") for name in ("one", "two"))
    assert one == two and json.loads(one)["value"] == VALUE


@pytest.mark.parametrize("value", [float("nan"), {"a": float("inf")}, {"a": torch.ones(1)}, b"bytes", {1, 2}], ids=repr)
def test_what_json_cannot_say_is_refused_before_anything_is_written(value, store):
    for write in (store.put_json, store.keep_first_json):
        with pytest.raises((TypeError, ValueError)):
            write("a", value)
    assert store.names() == []


def test_json_that_is_too_large_is_neither_written_nor_read(store, monkeypatch):
    store.put_json("a", "x" * 1000)
    monkeypatch.setattr(store_module, "JSON_LIMIT", 1000)
    with pytest.raises(Damaged, match=r"^a in .* is damaged: it has over 1000 bytes"):
        store.get_json("a")
    assert store.bytes_in == 1001, "more than it takes to know was read"
    for write in (store.put_json, store.keep_first_json):
        with pytest.raises(KdlibError, match=r"^b takes 10\d\d bytes of JSON; allowed: at most 1000$"):
            write("b", "x" * 1000)
    assert store.names() == ["a.json"]


def test_the_first_of_two_json_objects_is_kept(store, url):
    assert store.keep_first_json("a/record-train", {"who": (1, 2)}) == {"who": [1, 2]}
    before = store.fs.cat_file(f"{store.root}/a/record-train.json")
    for later in (store, Store(url)):
        assert later.keep_first_json("a/record-train", {"who": 2}) == {"who": [1, 2]}
    assert store.fs.cat_file(f"{store.root}/a/record-train.json") == before
    assert store.names() == ["a/record-train.json"]


def test_all_who_keep_the_first_at_a_time_get_the_same(store, url):
    for attempt in range(5):
        start, found = threading.Barrier(8), []

        def keep(who, start=start, found=found, name=f"a/{attempt}"):
            own = Store(url)
            start.wait()
            found.append(own.keep_first_json(name, {"who": who})["who"])

        threads = [threading.Thread(target=keep, args=(who,)) for who in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 8 and {*found} == {store.get_json(f"a/{attempt}")["who"]}


def test_what_is_there_exists(store):
    store.put("a/tensors", TENSORS)
    store.put_json("a/json", 1)
    store.fs.pipe_file(f"{store.root}/a/empty.json", b"")
    found = {name: store.exists(f"a/{name}") for name in ("tensors", "json", "empty", "none", "tensor")}
    assert found == {"tensors": True, "json": True, "empty": True, "none": False, "tensor": False}
    assert not store.exists("a"), "a folder is no object"


def test_what_names_calls_an_object_delete_takes(store):
    store.put("a/001/x", TENSORS)
    store.put_json("a/001/x", 1)
    store.put_json("cohort/001", 1)
    assert store.names() == ["a/001/x", "a/001/x.json", "cohort/001.json"]
    store.delete("a/001/x")
    assert store.names() == ["a/001/x.json", "cohort/001.json"] and store.get_json("a/001/x") == 1
    for name in store.names():
        store.delete(name)
        store.delete(name)
    assert store.names() == []


def test_tensors_and_json_of_one_name_are_two_objects(store):
    store.put("a", TENSORS)
    with pytest.raises(Missing, match=r"^a is not in "):
        store.get_json("a")
    store.put_json("b", 1)
    with pytest.raises(Missing, match=r"^b is not in "):
        store.get("b")


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


def test_bytes_in_and_out_are_counted(store, url):
    store.put("a", TENSORS)
    size = len(Store(url).content("a"))
    assert (store.bytes_in, store.bytes_out) == (0, size)
    store.get("a")
    store.content("a")
    assert (store.bytes_in, store.bytes_out) == (2 * size, size)
    store.put_json("a", VALUE)
    store.get_json("a")
    more = len(store.fs.cat_file(f"{store.root}/a.json"))
    assert (store.bytes_in, store.bytes_out) == (2 * size + more, size + more)


@pytest.mark.parametrize("name", ["client-0001/data", "public/test", "aggregator/validation"])
def test_what_never_changes_is_read_once_an_instance(name, store, url):
    store.put(name, TENSORS)
    size = len(store.content(name))
    for reader in (Store(url), Store(url)):
        first, second = reader.get(name), reader.get(name)
        assert first.keys() == second.keys() == TENSORS.keys()
        assert all(torch.equal(second[key], tensor) for key, tensor in TENSORS.items())
        assert reader.bytes_in == size


@pytest.mark.parametrize("name", ["client-0001/003/weights", "data/003", "public/testing"])
def test_what_may_change_is_read_anew(name, store, url):
    reader = Store(url)
    for value in (1, 2):
        store.put(name, {"x": torch.tensor([value])})
        assert reader.get(name)["x"].item() == value
    assert reader.bytes_in == 2 * len(store.content(name))
