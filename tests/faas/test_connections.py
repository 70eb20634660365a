"""Connections that nobody needs: they are closed, and keep nobody out."""

import resource
import socket
import sys
import time

import httpx
import psutil
import pytest

from faas.function.connections import HEAD, MOST
from functions import ROOT, Function, call_of, headers_of

BAD = (b"", b"POST / HT", b"POST / HTTP/1.1\r\nHost: x\r\nX-Endless: ", b"\r\n")
FUNC = (sys.executable, "-c", "from function import new; from func_python.http import serve; serve(new)")


@pytest.fixture(scope="module")
def function(place):
    with Function("client-0000", f"file://{place}/store/{{owner}}", place / "log") as function:
        psutil.Process(function.process.pid).rlimit(psutil.RLIMIT_NOFILE, (1024, 1024))
        yield function


@pytest.fixture
def flood(function):
    """Opens so many bad connections; each has said one of BAD."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    opened = []

    def more(count):
        for number in range(count):
            connection = socket.create_connection(("127.0.0.1", function.port), timeout=10)
            opened.append(connection)
            connection.sendall(BAD[number % len(BAD)])
        return opened

    yield more
    for connection in opened:
        connection.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def seconds(function):
    """The time of one call by a new connection, whose Step there is not, and its status."""
    clock = time.monotonic()
    with httpx.Client(base_url=function.url, trust_env=False, timeout=30) as client:
        call = call_of("aggregate", 1)
        status = client.post("/", headers=headers_of(call), content=call.body).status_code
    return time.monotonic() - clock, status


def closed(connection, within):
    """Whether the other end hangs up within so many seconds."""
    connection.settimeout(within)
    try:
        while connection.recv(4096):
            pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


def test_a_good_call_is_answered_within_a_second_amid_bad_connections(function, flood):
    seconds(function)  # what is made once is made now
    for _ in range(11):
        flood(100)
        took, status = seconds(function)
        assert status == 422 and took < 1
    assert len(psutil.Process(function.process.pid).net_connections()) <= MOST + 2


def test_a_call_in_hand_is_not_hung_up_on(function, flood):
    body = socket.create_connection(("127.0.0.1", function.port), timeout=30)
    bearer = headers_of(call_of("aggregate", 1), body=b"[]")["Authorization"]
    body.sendall(f"POST / HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer}\r\nContent-Length: 2\r\n\r\n".encode())
    time.sleep(0.3)
    flood(2 * MOST)
    body.sendall(b"[]")
    assert body.recv(4096).startswith(b"HTTP/1.1 400")
    body.close()


@pytest.mark.parametrize("said", [b"", b"POST / HT", b"POST / HTTP/1.1\r\nX: ", b"GET /health/liveness HTTP/1.1\r\n"
                                  b"Host: x\r\n\r\nPOST"], ids=["silent", "line", "headers", "second request"])
def test_a_head_that_does_not_come_is_not_waited_for(said, function):
    with socket.create_connection(("127.0.0.1", function.port)) as connection:
        connection.sendall(said)
        assert closed(connection, HEAD + 5)


def test_headers_that_come_byte_by_byte_do_not_keep_it_open(function):
    clock = time.monotonic()
    with socket.create_connection(("127.0.0.1", function.port)) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nX: ")
        with pytest.raises(ConnectionError):  # noqa: PT012  # one of these bytes is the first too late
            while time.monotonic() - clock < HEAD + 10:
                connection.sendall(b"x")
                time.sleep(0.2)
    assert time.monotonic() - clock > HEAD - 1


@pytest.mark.parametrize("said", BAD, ids=["silent", "line", "headers", "blank"])
def test_nor_by_the_server_of_func(said, place, tmp_path):
    with Function("client-0000", f"file://{place}/store/{{owner}}", tmp_path / "log", FUNC,
                  PYTHONPATH=f"{ROOT}/faas:{ROOT}", PORT="1") as function, \
            socket.create_connection(("127.0.0.1", function.port)) as connection:
        connection.sendall(said)
        assert closed(connection, HEAD + 5)
