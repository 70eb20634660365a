"""What a store refuses: names, damaged and foreign objects, and writes that fail half-way."""

import json
import os
import pickle

import pytest
import safetensors.torch
import torch
from stored import TENSORS

from kdlib.errors import Damaged, KdlibError, Missing
from kdlib.store import store as store_module
from kdlib.store.store import Store

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


@pytest.mark.parametrize(("fails", "write"), [("pipe_file", "put_json"), ("mv", "put_json"),
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


def test_a_damaged_first_is_not_taken_for_a_record(store):
    store.keep_first_json("a", 1)
    store.fs.pipe_file(f"{store.root}/a.json", b"{")
    with pytest.raises(Damaged, match=r"^a in "):
        store.keep_first_json("a", 2)
    store.delete("a.json")
    assert store.keep_first_json("a", 3) == store.get_json("a") == 3
