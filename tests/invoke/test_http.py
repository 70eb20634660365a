"""Whatever a function answers, or whoever stands in its place: the call ends in time, in one line, in little memory."""

import contextlib
import gzip
import json
import socket
import threading
import time
import tracemalloc

import pytest

import made
from functions import KEY, SIGNING
from kdlib.errors import KdlibError
from kdlib.invoke.http import Endpoint, Http
from kdlib.invoke.steps import Step
from kdlib.invoke.tokens import accepted, public_of, verified
from kdlib.settings.experiment import make_experiment

STEP = Step("train", 1, "client-0000")
EXPERIMENT = make_experiment("digits", "alone", 1.0, profile="smoke")
RECORD = made.record("train", "client-0000", 0.0, backend="http").model_copy(update={"run": KEY}).model_dump_json()


class Peer:
    """Answers each request on loopback by `speak(connection)`; requests: what came."""

    def __init__(self, speak):
        self.speak, self.requests = speak, []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection):
        with contextlib.suppress(OSError), connection:
            request = b""
            while b'"subject"' not in request:
                request += connection.recv(2**16)
            self.requests.append(request)
            self.speak(connection)


@pytest.fixture
def call():
    """Carry the Step out by a peer that speaks so; what comes of it, and the peer."""
    with contextlib.ExitStack() as stack:
        def called(speak, seconds=2.0, tries=1):
            peer = Peer(speak)
            stack.callback(peer.listener.close)
            http = stack.enter_context(contextlib.closing(Http(
                {"client-0000": Endpoint(url=peer.url)}, SIGNING, timeouts={"train": seconds}, tries=tries)))
            try:
                return next(iter(http.run(KEY, EXPERIMENT, None, [STEP]))), peer
            except KdlibError as error:
                return str(error), peer
        yield called


def head(status=200, length=None, **headers):
    more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    size = "" if length is None else f"Content-Length: {length}\r\n"
    return f"HTTP/1.1 {status} X\r\n{size}{more}\r\n".encode()


def whole(content, status=200, **headers):
    return lambda connection: connection.sendall(head(status, len(content), **headers) + content)


def dripping(start):
    """Every 50 ms a byte, so that no pause is long."""
    def speak(connection):
        connection.sendall(start)
        for _ in range(200):
            connection.sendall(b" ")
            time.sleep(0.05)
    return speak


def endless(status=200, **headers):
    def speak(connection):
        connection.sendall(head(status, **headers))
        for _ in range(300):
            connection.sendall(b"x" * 2**20)
    return speak


def test_a_record_is_taken_and_nothing_compressed_asked_for(call):
    record, peer = call(whole(RECORD.encode()))
    assert record.subject == "client-0000" and record.backend == "http"
    assert b"accept-encoding: identity\r\n" in peer.requests[0].lower()
    sent = json.loads(peer.requests[0].partition(b"\r\n\r\n")[2])
    assert (sent["run"], sent["round"], sent["step"], sent["subject"]) == (KEY, 1, "train", "client-0000")


def token_of(request):
    """What the request's token says."""
    return verified(request.partition(b"Bearer ")[2].partition(b"\r\n")[0].decode(), accepted(public_of(SIGNING)),
                    "client-0000")


def test_a_token_that_came_twice_is_followed_by_another(call):
    replies = [whole(b'{"error": "the token was used before"}', 409), whole(RECORD.encode())]
    record, peer = call(lambda connection: replies.pop(0)(connection), tries=2)
    assert record.subject == "client-0000"
    first, second = map(token_of, peer.requests)
    assert first.call == second.call and first.id != second.id


def test_a_token_is_signed_when_its_call_is_sent_not_while_it_waits_for_a_place():
    def slow(connection):
        time.sleep(1.2)
        whole(RECORD.encode())(connection)

    peer = Peer(slow)
    there = {"client-0000": Endpoint(url=peer.url, others=(peer.url,))}  # two places
    with contextlib.closing(Http(there, SIGNING, timeouts={"train": 10})) as http:
        list(http.attempt(KEY, EXPERIMENT, None, [STEP] * 3))
    peer.listener.close()
    ends = sorted(token_of(request).until for request in peer.requests)
    assert len(ends) == 3 and ends[2] - ends[0] >= 1  # whole seconds


@pytest.mark.parametrize("start", [head(length=1000), head(), b"HTTP/1.1 200 ", head(503, 1000),
                                   b"HTTP/1.1 200 OK\r\nX: "])
def test_a_byte_now_and_then_does_not_hold_the_call_up(start, call):
    clock = time.monotonic()
    said, _ = call(dripping(start), seconds=0.6)
    assert "did not answer within 0.6 seconds" in said and time.monotonic() - clock < 3


@pytest.mark.parametrize(("speak", "says"), [
    (endless(), "answered more than 65536 bytes"), (endless(500), "answered 500: xxxx"),
    (endless(503), "answered 503: xxxx"),
    (whole(b" " * 70_000), "answered more than 65536 bytes"),
    (whole(gzip.compress(bytes(2**24)), content_encoding="gzip"), "answered in the encoding gzip; allowed: none"),
    (whole(gzip.compress(RECORD.encode()), content_encoding="GZIP"), "answered in the encoding gzip; allowed: none"),
    (whole(b"x", content_encoding="br, zstd"), "answered in the encoding br, zstd; allowed: none"),
    (whole(gzip.compress(bytes(2**24)), 500, content_encoding="gzip"), "answered 500: "),
    (whole(b'{"error": "' + b"no \\u001b[2J\\n" * 99 + b'"}', 422), "answered 422: no [2J no [2J"),
    (whole(b"[" * 60_000, 422), "answered 422: [[["),
])
def test_what_is_too_long_or_packed_is_refused_and_little_of_it_read(speak, says, call):
    tracemalloc.start()
    said, _ = call(speak, seconds=20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert says in said and said.isprintable() and len(said) < 600
    assert peak < 16 * 2**20
