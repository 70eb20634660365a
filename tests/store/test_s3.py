"""What only S3 does: it refuses, fails for a while, is written by others. Every store's suite is in test_store.py."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from kdlib.errors import KdlibError, Missing, Unreachable
from kdlib.store import s3 as s3_module
from kdlib.store.store import Store
from servers import BUCKET, Relay

TENSORS = {"x": torch.rand(2**18)}  # a mebibyte, so that replies take several packets
SLOW_DOWN = (b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/xml\r\nConnection: close\r\n\r\n"
             b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>")


@pytest.fixture
def relay(s3_server, s3, monkeypatch):
    """Between the store and the server."""
    relay = Relay(s3_server.port)
    monkeypatch.setenv("AWS_ENDPOINT_URL", relay.url)
    yield relay
    relay.shut()


@pytest.fixture
def store(relay, s3):
    store = Store(s3)
    store.put("a/weights", TENSORS)
    return store


def test_a_read_and_a_write_ask_the_server_once(s3, s3_server):
    store = Store(s3)
    for call, arguments in ((store.put, ({"x": torch.ones(1)},)), (store.get, ()), (store.put_json, (1,)),
                            (store.get_json, ()), (store.content, ())):
        before = s3_server.requests()
        call("a", *arguments)
        assert s3_server.requests() - before == 1, call


def test_a_function_reads_its_own_and_the_public_objects_alone(s3, s3_server, monkeypatch):
    def store_of(environment):
        for key, value in environment.items():
            monkeypatch.setenv(key, value)
        return Store(f"{s3}/store")

    anyone = store_of(s3_server.admin)
    names = ("client-0003/data", "client-0004/data", "client-00030/data", "public/test", "aggregator/validation")
    for name in names:
        anyone.put(name, TENSORS)
        anyone.put_json(name, 1)
    prefix = f"arn:aws:s3:::{s3.removeprefix('s3://')}/store"
    client = s3_server.user(s3.rpartition("/")[2],
                            {"Action": ["s3:GetObject", "s3:PutObject"], "Resource": f"{prefix}/client-0003/*"},
                            {"Action": "s3:GetObject", "Resource": f"{prefix}/public/*"})
    own = store_of(client)
    for name in ("client-0003/data", "public/test"):
        assert torch.equal(own.get(name)["x"], TENSORS["x"]) and own.get_json(name) == 1
    own.put("client-0003/001/weights", TENSORS)
    assert own.keep_first_json("client-0003/001/record-train", 1) == 1
    before = anyone.names()

    for name in names[1:]:
        calls = {"put": (TENSORS,), "put_json": (2,), "keep_first_json": (2,), "delete": ()}
        if not name.startswith("public"):
            calls |= {"get": (), "get_json": (), "content": (), "exists": ()}
        for call, arguments in calls.items():
            with pytest.raises(KdlibError, match=rf"^{name} in {s3}/store: S3 refuses: Access Denied$"):
                getattr(own, call)(name, *arguments)
    with pytest.raises(KdlibError, match=rf"^{s3}/store: S3 refuses: Access Denied$"):
        own.names()
    assert anyone.names() == before and anyone.get_json("client-0004/data") == 1
    with pytest.raises(Missing):  # its own prefix is asked, not guessed
        own.get("client-0003/002/weights")


@pytest.mark.parametrize(("key", "value", "why"), [
    ("AWS_SECRET_ACCESS_KEY", "a-wrong-secret", "signature we calculated does not match"),
    ("AWS_ACCESS_KEY_ID", "unknown", "does not exist in our records"),
    ("AWS_ACCESS_KEY_ID", None, "[Cc]redentials"),
])
def test_other_credentials_are_refused_at_once(key, value, why, s3, s3_server, monkeypatch):
    Store(s3).put("a", TENSORS)
    if value:
        monkeypatch.setenv(key, value)
    else:
        monkeypatch.delenv(key)
    started = time.monotonic()
    with pytest.raises(KdlibError, match=rf"^a in {s3}: S3 refuses: .*{why}") as error:
        Store(s3).get("a")
    assert time.monotonic() - started < 5
    assert "\n" not in str(error.value) and s3_server.admin["AWS_SECRET_ACCESS_KEY"] not in str(error.value)


def test_a_bucket_that_is_not_there_is_named(s3):
    with pytest.raises(KdlibError, match=r"^a in s3://nowhere/b: S3 refuses: .*bucket does not exist"):
        Store("s3://nowhere/b").put("a", TENSORS)
    with pytest.raises(KdlibError, match=r"^a in s3://nowhere/b: S3 refuses: .*bucket does not exist"):
        Store("s3://nowhere/b").get("a")


def test_a_listing_is_fresh(s3, s3_server):
    store, others = Store(s3), s3_server.client("s3")
    key = f"{s3.rpartition('/')[2]}/a/001/weights.safetensors"
    store.put("b", TENSORS)
    assert store.names() == ["b"] and not store.exists("a/001/weights")
    others.put_object(Bucket=BUCKET, Key=key, Body=b"1")
    assert store.names() == ["a/001/weights", "b"] and store.exists("a/001/weights")
    others.delete_object(Bucket=BUCKET, Key=key)
    assert store.names() == ["b"] and not store.exists("a/001/weights")


def test_names_do_not_reach_into_a_neighbour_of_like_name(s3):
    for place in (s3, f"{s3}-neighbour", f"{s3}/store"):
        Store(place).put("a", TENSORS)
    assert Store(f"{s3}/store").names() == Store(f"{s3}-neighbour").names() == ["a"]


def test_a_forked_process_reads_too(s3):
    Store(s3).put("a", TENSORS)
    code = ("import os, sys; from kdlib.store.store import Store; size = len(Store(sys.argv[1]).content('a'))\n"
            "pid = os.fork()\n"
            "if not pid: os._exit(len(Store(sys.argv[1]).content('a')) != size)\n"
            "sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))")
    assert subprocess.run([sys.executable, "-c", code, s3], timeout=60).returncode == 0


def test_a_server_that_is_away_for_three_seconds_is_waited_for(store, relay):
    store.put_json("a/record", 1)
    store.put_json("a/old", 1)
    calls = {"get": ("a/weights",), "put": ("a/new", TENSORS), "put_json": ("a/json", 1), "names": (),
             "exists": ("a/weights",), "keep_first_json": ("a/record", 2), "delete": ("a/old.json",)}
    relay.shut()
    started = time.monotonic()
    with ThreadPoolExecutor(len(calls)) as threads:
        answers = {call: threads.submit(getattr(store, call), *arguments) for call, arguments in calls.items()}
        time.sleep(3)
        assert not any(answer.done() for answer in answers.values()), "the server was not away"
        relay.open()
    assert time.monotonic() - started < 12
    assert torch.equal(answers["get"].result()["x"], TENSORS["x"]) and answers["keep_first_json"].result() == 1
    assert answers["exists"].result() and "a/weights" in answers["names"].result()
    assert store.names() == ["a/json.json", "a/new", "a/record.json", "a/weights"]
    assert torch.equal(store.get("a/new")["x"], TENSORS["x"]) and store.get_json("a/json") == 1


@pytest.mark.parametrize("call", ["get", "put", "names"])
def test_a_server_that_stays_away_is_one_clear_line(call, store, relay, s3, monkeypatch):
    monkeypatch.setattr(s3_module, "PATIENCE", 1.5)
    arguments = {"get": ("a/weights",), "put": ("a/weights", TENSORS), "names": ()}[call]
    relay.shut()
    started = time.monotonic()
    what = "" if call == "names" else "a/weights in "
    with pytest.raises(Unreachable, match=rf"^{what}{s3}: S3 has not answered within 1\.5 s: .*{relay.url}") as error:
        getattr(store, call)(*arguments)
    assert time.monotonic() - started < 8 and "\n" not in str(error.value)


def test_a_server_that_has_too_much_to_do_is_asked_again(store, relay):
    for call, arguments in ((store.get, ()), (store.put, ({"x": torch.ones(1)},)), (store.delete, ())):
        relay.instead = [SLOW_DOWN] * 3
        call("a/weights", *arguments)
        assert not relay.instead, "not every 503 was met"
    assert store.names() == []


@pytest.mark.parametrize("cut", [0, 100, 5_000, 900_000])
def test_a_reply_that_breaks_off_is_asked_for_again(cut, store, relay):
    relay.cut = cut
    assert torch.equal(store.get("a/weights")["x"], TENSORS["x"])
    assert relay.cut is None, "nothing broke off"


def test_the_first_is_kept_although_its_reply_was_lost(store, relay):
    relay.cut = 0
    assert store.keep_first_json("a/record", {"who": 1}) == {"who": 1}
    assert relay.cut is None, "nothing was lost"
    assert store.keep_first_json("a/record", {"who": 2}) == {"who": 1}


def test_s3_without_s3fs_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "kdlib.store.s3", None)
    monkeypatch.delattr("kdlib.store.s3")
    with pytest.raises(KdlibError, match=r"^s3://runs/x needs s3fs; allowed: pip install 'kdlib\[s3\]', or a folder$"):
        Store("s3://runs/x")
