"""A store as the Steps of one invocation see it."""

import pytest
import torch
from stored import TENSORS

from kdlib.errors import KdlibError
from kdlib.store.store import Session, Store


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
