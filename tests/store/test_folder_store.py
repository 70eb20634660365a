"""What lies in an object's place in a folder, and is none: it blocks nobody, leads nowhere, and is named."""

import os
import threading

import pytest
import torch
from stored import TENSORS

from kdlib.errors import Damaged
from kdlib.store import store as store_module
from kdlib.store.store import Store


def loop(path):
    path.symlink_to(path.with_name("other"))
    path.with_name("other").symlink_to(path)


def linked_folder(path):
    (path.parents[2] / "elsewhere").mkdir()
    path.parent.rmdir()
    path.parent.symlink_to(path.parents[2] / "elsewhere")


PLANTED = {
    "pipe": lambda path: os.mkfifo(path),
    "endless device": lambda path: path.symlink_to("/dev/zero"),
    "folder": lambda path: path.mkdir(),
    "link loop": loop,
    "link to a file": lambda path: path.symlink_to("/etc/hostname"),
    "link to nothing": lambda path: path.symlink_to("/nowhere"),
    "linked folder": linked_folder,
}


@pytest.fixture
def store(tmp_path):
    (tmp_path / "store" / "a").mkdir(parents=True)
    return Store(tmp_path / "store")


def soon(call, *arguments):
    """What the call raises, within a time in which nothing blocks."""
    raised = []

    def attempt():
        try:
            call(*arguments)
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "it blocks"
    return raised[0] if raised else None


@pytest.mark.parametrize("plant", PLANTED.values(), ids=PLANTED)
@pytest.mark.parametrize(("suffix", "read"), [(".safetensors", "get"), (".json", "get_json")])
def test_what_is_no_file_is_named_and_not_read(plant, suffix, read, store, tmp_path):
    plant(tmp_path / f"store/a/b{suffix}")
    for call in (read, "content"):
        error = soon(getattr(store, call), "a/b" if call == read or suffix == ".safetensors" else "a/b.json")
        assert isinstance(error, Damaged) and error.damaged.startswith("a/b"), error
        assert "it is no file, but a link, a folder" in str(error) and "\n" not in str(error)
    assert store.exists("a/b") and store.bytes_in == 0


@pytest.mark.parametrize("plant", PLANTED.values(), ids=PLANTED)
def test_the_first_record_is_not_read_through_it(plant, store, tmp_path):
    plant(tmp_path / "store/a/b.json")
    assert isinstance(soon(store.keep_first_json, "a/b", 1), Damaged)
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("name", ["pipe", "endless device", "link loop", "link to a file"])
def test_a_write_replaces_it_and_reaches_nothing_else(name, store, tmp_path):
    PLANTED[name](tmp_path / "store/a/b.safetensors")
    store.put("a/b", TENSORS)
    assert torch.equal(store.get("a/b")["part"], TENSORS["part"])
    assert (tmp_path / "store/a/b.safetensors").is_file() and not (tmp_path / "store/a/b.safetensors").is_symlink()


@pytest.mark.parametrize("name", ["folder", "linked folder"])
def test_a_write_that_cannot_replace_it_writes_nowhere(name, store, tmp_path):
    PLANTED[name](tmp_path / "store/a/b.json")
    assert isinstance(soon(store.put_json, "a/b", 1), Damaged)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_nothing_is_listed_or_removed_through_a_link(store, tmp_path):
    other = Store(tmp_path / "other")
    other.put("x/y", TENSORS)
    store.put("a/own", TENSORS)
    (tmp_path / "store/a/x").symlink_to(tmp_path / "other/x")
    (tmp_path / "store/a/round").symlink_to(tmp_path / "store/a")
    assert store.names() == ["a/own"]
    assert isinstance(soon(store.delete, "a/x/y"), Damaged) and other.names() == ["x/y"]


def test_a_root_that_is_a_link_is_the_users_own(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "store").symlink_to(tmp_path / "disk")
    store = Store(tmp_path / "store")
    store.put("a/b", TENSORS)
    assert store.names() == ["a/b"] and store.get("a/b").keys() == TENSORS.keys()


def test_an_object_larger_than_any_is_not_read(store, tmp_path, monkeypatch):
    with (tmp_path / "store/a/b.safetensors").open("wb") as file:
        file.truncate(2**40)  # a hole: it takes no place on the disk
    monkeypatch.setattr(store_module, "LARGEST", 1000)
    error = soon(store.get, "a/b")
    assert isinstance(error, Damaged) and "it has over 1000 bytes" in str(error) and store.bytes_in == 1001
