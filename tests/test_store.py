import json
import os
import pickle
import threading
import uuid
from collections.abc import Callable
from typing import NamedTuple

import pytest
import safetensors
import safetensors.torch
import torch

from kdlib import store as store_module
from kdlib.errors import Damaged, KdlibError, Missing
from kdlib.store import Session, Store

TENSORS = {
    "float": torch.randn(3, 4), "half": torch.ones(2, dtype=torch.bfloat16),
    "bytes": torch.arange(5, dtype=torch.uint8), "scalar": torch.tensor(7), "empty": torch.zeros(0, 3),
    "bool": torch.tensor([True, False]), "part": torch.arange(10)[::2],
    "channels_last": torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
}


VALUE = {"b": [1, 2.5, None, True], "a": {"é\n": "\ud800", "z": 10**20}, "": list(range(40))}


@pytest.fixture(params=["folder", "memory", "s3"])
def url(request, tmp_path):
    if request.param == "s3":
        return request.getfixturevalue("s3")
    return str(tmp_path / "store") if request.param == "folder" else f"memory://{uuid.uuid4().hex}"


@pytest.fixture
def store(url):
    return Store(url)


class Kind(NamedTuple):
    suffix: str
    value: dict
    put: Callable
    get: Callable


@pytest.fixture(params=["tensors", "json"])
def kind(request, store):
    if request.param == "tensors":
        return Kind(".safetensors", TENSORS, store.put, store.get)
    return Kind(".json", VALUE, store.put_json, store.get_json)


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


def test_a_damaged_first_is_not_taken_for_a_record(store):
    store.keep_first_json("a", 1)
    store.fs.pipe_file(f"{store.root}/a.json", b"{")
    with pytest.raises(Damaged, match=r"^a in "):
        store.keep_first_json("a", 2)
    store.delete("a.json")
    assert store.keep_first_json("a", 3) == store.get_json("a") == 3


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


CALLS = {"get": (), "content": (), "delete": (), "put": (TENSORS,), "get_json": (), "put_json": (1,),
         "keep_first_json": (1,), "exists": ()}


@pytest.mark.parametrize("name", ["", "/", "..", "../a", "a/../b", "/a", "a//b", "a/", "A", "a b", "a.b", "a\\b", "é",
                                  "a\n", ".json", "../a.json", "a.json.json"])
def test_other_names_are_refused(name, store):
    for call, arguments in CALLS.items():
        with pytest.raises(KdlibError, match="is no name for an object; allowed: lower-case words joined by /"):
            getattr(store, call)(name, *arguments)
    assert store.names() == []


def test_only_what_goes_through_names_takes_json_at_the_end(store):
    store.delete("a.json")
    for call in CALLS.keys() - {"delete", "content"}:
        with pytest.raises(KdlibError, match=r"'a\.json' is no name for an object"):
            getattr(store, call)("a.json", *CALLS[call])


def test_a_missing_object_is_named(store, url, kind):
    with pytest.raises(Missing, match=r"a/b.*is not in ") as error:
        kind.get("a/b")
    assert url in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("keep", [0, 4, 8, 12, 60, -1])
def test_a_truncated_object_is_named(keep, store, kind):
    kind.put("a/b", kind.value)
    path = f"{store.root}/a/b{kind.suffix}"
    store.fs.pipe_file(path, store.fs.cat_file(path)[:keep])
    with pytest.raises(Damaged, match=r"^a/b in .* is damaged: it.*checksum") as error:
        kind.get("a/b")
    assert store.url in str(error.value) and "\n" not in str(error.value)


ONE = {"x": torch.ones(1)}
FOREIGN = {
    "without a checksum": safetensors.torch.save(ONE),
    "of other metadata": safetensors.torch.save(ONE, {"format": "pt"}),
    "of a wrong checksum": safetensors.torch.save(ONE, {"sha256": "a" * 64}),
    "pickle": pickle.dumps([1.0]),
    "json": b'{"value":1}',
    "json of a wrong checksum": json.dumps({"sha256": "a" * 64, "value": 1}, separators=(",", ":")).encode(),
    "long header": b"\xff" * 200,
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_object_is_named(content, store, kind):
    store.fs.makedirs(f"{store.root}/a", exist_ok=True)
    store.fs.pipe_file(f"{store.root}/a/b{kind.suffix}", content)
    with pytest.raises(Damaged, match=r"^a/b in .* is damaged: it.*checksum") as error:
        kind.get("a/b")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("store", [Store("memory://flipped")], ids=["memory"])
def test_no_altered_bit_goes_unseen(store, kind):
    kind.put("a", {"x": torch.arange(9)} if kind.suffix == ".safetensors" else {"x": 5})
    whole = store.fs.cat_file(f"{store.root}/a{kind.suffix}")
    for place in range(len(whole)):
        for bit in range(8):
            altered = bytearray(whole)
            altered[place] ^= 1 << bit
            store.fs.pipe_file(f"{store.root}/a{kind.suffix}", bytes(altered))
            with pytest.raises(Damaged):
                kind.get("a")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"sha256":"%s","value":' % ("0" * 64) + "[" * 100_000,
                                  '{"sha256":"%s","other":1}' % ("0" * 64), '{"sha256":"%s","value":1' % ("0" * 64)],
                         ids=["no seal", "deep", "no value", "torn"])
def test_json_of_another_make_is_named_although_its_checksum_is_right(text, store):
    content = text.encode()
    if "sha256" in text:
        content = store_module._sealed(content, ".json")
    store.fs.makedirs(f"{store.root}/a", exist_ok=True)
    store.fs.pipe_file(f"{store.root}/a/b.json", content)
    with pytest.raises(Damaged, match=r"^a/b in .* is damaged: ") as error:
        store.get_json("a/b")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("fails, write", [("pipe_file", "put_json"), ("mv", "put_json"),
                                          ("pipe_file", "keep_first_json"), ("link", "keep_first_json")])
@pytest.mark.parametrize("before", [None, 1], ids=["new", "replaced"])
def test_a_failed_write_leaves_what_was_there(fails, write, before, tmp_path, monkeypatch):
    store = Store(str(tmp_path))
    if before:
        store.put_json("a/b", before)

    def break_off(path, content):
        if fails == "pipe_file":  # a full disk: a part of the bytes arrived
            with open(path, "wb") as file:  # noqa: PTH123 (fsspec's path)
                file.write(content[:10])
        raise OSError("no space left on device")

    monkeypatch.setattr(store.fs, fails, break_off)
    with pytest.raises(OSError, match="no space"):
        getattr(store, write)("a/b", 2)
    assert [name for _, _, names in os.walk(tmp_path) for name in names] == (["b.json"] if before else [])
    assert not before or store.get_json("a/b") == before
    assert store.bytes_out == (0 if before is None else len(store.fs.cat_file(f"{tmp_path}/a/b.json")))


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


@pytest.fixture
def session(store):
    store.put("given", TENSORS)
    return Session(store, scratch=("digested", "half"))


def test_a_session_reads_an_object_once(session, store):
    for _ in range(3):
        found = session.get("given")
        assert found.keys() == TENSORS.keys()
        assert all(torch.equal(found[key], tensor) for key, tensor in TENSORS.items())
    assert store.bytes_in == len(store.content("given"))


def test_what_a_session_wrote_it_has_in_memory_and_the_store_has_too(session, store, url):
    session.get("given")
    before = store.bytes_in
    for name in ("a/001/weights", "given"):
        session.put(name, {"x": torch.tensor([2])})
        assert session.get(name)["x"].item() == Store(url).get(name)["x"].item() == 2
    assert store.bytes_in == before, "what it wrote itself was read back"
    assert store.bytes_out > 0


def test_scratch_is_told_by_the_last_word_and_never_reaches_the_store(session, store):
    for name in ("a/001/digested", "half", "half/001/whole", "a/digested-not"):
        session.put(name, {"x": torch.tensor([3])})
        assert session.get(name)["x"].item() == 3
    assert store.names() == ["a/digested-not", "given", "half/001/whole"]
    with pytest.raises(KdlibError, match=r"a/001/digested.* is not in"):  # nor does another invocation see it
        Session(store, scratch=("digested",)).get("a/001/digested")


@pytest.mark.parametrize("name", ["a/digested", "a/weights"])
def test_a_model_that_trains_on_does_not_change_what_was_put(name, session):
    given = {"x": torch.tensor([1.0]), "y": torch.tensor([1.0])}
    session.put(name, given)
    given["x"].add_(1)
    given["y"] = torch.tensor([5.0])
    assert [tensor.item() for tensor in session.get(name).values()] == [1, 1]


def test_a_session_misses_what_the_store_misses(session):
    with pytest.raises(KdlibError, match=r"a/b.*is not in "):
        session.get("a/b")
