"""Thousands of hostile requests to a function in a process of its own: each is refused with a reason, and no more."""

import base64
import hashlib
import json
import pickle
import socket
import time
from urllib.parse import quote

import jwt
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from functions import KEY, SECRET, Function, deployed, tiny
from kdlib.invoke.tokens import token

VALID = {"run": KEY, "round": 1, "step": "communicate", "subject": "client-0000"}
OWN = token(SECRET, "client-0000", KEY, 900, tiny("fedmd").fingerprint())
MEMORY = 24 * 2**20  # bytes that the process may grow by: what Python has not yet given back

asked = 0


def hostile(examples):
    """So many generated requests, the same in every run of the tests."""
    return settings(max_examples=examples, derandomize=True, database=None, deadline=None,
                    suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    deployed(f"{folder}/store/{{owner}}", tiny("fedmd"))
    (folder / "outside").write_text("untouched")
    return folder


@pytest.fixture(scope="module")
def contents(place):
    """What lies in the folder before anybody asks."""
    return snapshot(place)


@pytest.fixture(scope="module")
def function(place, contents):
    with Function("client-0000", f"file://{place}/store/{{owner}}", place / "log") as function:
        for _ in range(300):  # what is made once is made now
            refused(function, content=b"[]", bearer=OWN)
            refused(function, json=VALID | {"round": 2, "step": "revisit"}, bearer=OWN)
        function.before = psutil.Process(function.process.pid).memory_info().rss
        yield function


def snapshot(place):
    return {path.relative_to(place): hashlib.sha256(path.read_bytes()).hexdigest() for path in place.rglob("*")
            if path.is_file() and path.name != "log"}


def refused(function, method="POST", path="/", bearer=None, **body):
    """Ask, and expect to be refused with a reason."""
    global asked
    asked += 1
    bearer = bearer.encode() if isinstance(bearer, str) else bearer
    headers = {"Authorization": b"Bearer " + bearer} if bearer else {}
    answer = function.client.request(method, path, headers=headers, **body)
    assert 400 <= answer.status_code < 500, (answer.status_code, answer.text)
    reason = answer.json()["error"]
    assert reason and "\n" not in reason and len(reason) < 700 and "Traceback" not in reason
    return answer.status_code


WILD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=200), st.binary(max_size=9).map(repr),
    st.sampled_from([
        "../../etc/passwd", "..", "/", "//", "client-0001", "client-0000/../client-0001", "client-0000\x00",
        "client-0000 ", "client-0000\n", "CLIENT-0000", "private/client-0001", "%2e%2e%2f", "client-\u0660\u0660",
        "server", "cnn2-128-256", "aggregate", "pretrain", "__init__", "communicate;rm -rf /", "communicate+aggregate",
        "transfer>" * 9, "${HOME}", "{owner}", "file:///etc/passwd", "s3://bucket", "a" * 3000, "0" * 16 + "\n",
        "ffffffffffffffff", KEY.upper(), -1, 1000, 2**64, 1.0, "1", [], {}, [1], {"$ne": None}, float("1e308")]),
    st.recursive(st.none() | st.integers() | st.text(max_size=5),
                 lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
                 max_leaves=9))


@hostile(800)
@given(st.dictionaries(st.sampled_from([*VALID, "attempt", "store", "__class__"]), WILD, min_size=1, max_size=4))
def test_wild_values_in_a_steps_fields(function, changes):
    body = VALID | changes
    if {name: body[name] for name in VALID} != VALID or set(body) != set(VALID):
        refused(function, content=json.dumps(body).encode(), bearer=OWN)


@hostile(300)
@given(st.one_of(
    st.binary(max_size=300), st.text(max_size=300).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.integers(1, 4000).map(lambda depth: b"[" * depth), st.integers(1, 600).map(lambda depth: b'{"run":' * depth),
    st.integers(4097, 200_000).map(lambda size: b" " * size),
    st.integers(1, 4000).map(lambda digits: b'{"round":' + b"9" * digits + b"}"),
    st.recursive(st.none() | st.text(max_size=9), lambda inner: st.lists(inner) | st.tuples(inner)).map(pickle.dumps),
    st.just(pickle.dumps(OSError("x"), 0)), st.just(json.dumps(VALID).encode("utf-16")),
    st.just(json.dumps(VALID).encode() * 2), st.just(b"\xef\xbb\xbf" + json.dumps(VALID).encode()),
    st.just(json.dumps(VALID).encode()[:-1] + b',"round":NaN}'), st.just(json.dumps([VALID]).encode())))
def test_bodies_that_are_no_step(function, content):
    refused(function, content=content, bearer=OWN)


def signed(secret=SECRET, algorithm="HS256", headers=None, issued=0, life=300, **claims):
    """A token that another would take; issued: seconds from now; life: seconds from then."""
    issued += int(time.time())
    whole = {"aud": "client-0000", "sub": KEY, "iat": issued, "exp": issued + life} | claims
    whole = {name: claim for name, claim in whole.items() if claim != "absent"}
    return jwt.encode(whole, secret, algorithm, headers)


def raw(header, claims, signature=b""):
    """A token of any header and claims, which no library would sign."""
    parts = [json.dumps(part).encode() if not isinstance(part, bytes) else part for part in (header, claims)]
    return b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in (*parts, signature))


CLAIMS = {"aud": "client-0000", "sub": KEY, "iat": 1, "exp": 2**40}
TOKENS = st.one_of(
    st.binary(min_size=1, max_size=200).map(lambda junk: base64.b64encode(junk)),
    st.text("abcdefghijklmnopqrstuvwxyzABCDEF0123456789-_.=", min_size=1, max_size=6000).map(str.encode),
    st.tuples(st.sampled_from(["none", "None", "NONE", "nOnE", "", "HS257", "RS256", "ES256", "HS384", "HS512", "dir"]),
              st.binary(max_size=40)).map(lambda made: raw({"alg": made[0], "typ": "JWT"}, CLAIMS, made[1])),
    st.text(min_size=32, max_size=64).filter(lambda text: text != SECRET).map(lambda text: signed(text)),
    st.sampled_from(["HS384", "HS512"]).map(lambda algorithm: signed(algorithm=algorithm)),
    st.integers(-10**6, -71).map(lambda seconds: signed(issued=seconds, life=9)),
    st.integers(120, 10**6).map(lambda seconds: signed(issued=seconds)),
    st.integers(901, 10**12).map(lambda seconds: signed(life=seconds)),
    st.integers(-10**6, 0).map(lambda seconds: signed(life=seconds)),
    st.sampled_from(["client-0001", "aggregator", "", "client-0000 ", ["client-0000", "x"], 7]).map(
        lambda audience: signed(aud=audience)),
    st.sampled_from(["f" * 16, "", "../x", KEY.upper()]).map(lambda run: signed(sub=run)),
    st.sampled_from(["aud", "sub", "iat", "exp"]).map(lambda name: signed(**{name: "absent"})),
    st.tuples(st.sampled_from(["iat", "exp"]), st.sampled_from(["soon", [], {}, None, "1" * 400])).map(
        lambda claim: raw({"alg": "HS256"}, CLAIMS | {claim[0]: claim[1]}, b"x" * 32)),
    st.sampled_from(["../../dev/null", "' or 1=1", "http://127.0.0.1/key"]).map(
        lambda key: signed("x" * 32, headers={"kid": key, "jku": key})),
    st.integers(1, 3000).map(lambda depth: raw(b"[" * depth, CLAIMS)))


@hostile(500)
@given(TOKENS)
def test_tokens_that_open_nothing(function, bearer):
    assert refused(function, json=VALID, bearer=bearer) in (401, 403)


@hostile(250)
@given(st.sampled_from(["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "POST", "TRACE", "PROPFIND"]),
       st.one_of(st.sampled_from(["/..%2f..%2fetc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/health/liveness/%2e%2e/x",
                                  "/store", "/docs", "/openapi.json", "/.git/config", "/health", "/a/", "/%00"]),
                 st.text(min_size=1, max_size=60).map(lambda text: "/x" + quote(text.encode("utf-8", "replace")))),
       st.sampled_from([OWN, "", "x"]))
def test_other_ways_in(function, method, path, bearer):
    assert refused(function, method, path, bearer) in (404, 405)


HEAD = f"POST / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {OWN}\r\n".encode()
BODY = json.dumps(VALID).encode()


@hostile(200)
@given(st.one_of(
    st.binary(min_size=1, max_size=400),
    st.binary(max_size=40).map(lambda junk: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + junk),
    st.integers(20_000, 300_000).map(lambda size: HEAD + b"X-Long: " + b"x" * size + b"\r\n\r\n"),
    st.integers(300, 3000).map(lambda count: HEAD + b"X-Many: x\r\n" * count + b"\r\n"),
    st.sampled_from([b"Content-Length: -1", b"Content-Length: 1e3", b"Content-Length: 99999999999999999999",
                     b"Content-Length: 5\r\nContent-Length: 6", b"Transfer-Encoding: gzip, chunked",
                     b"Transfer-Encoding: x", b"Content-Length: 5\r\nTransfer-Encoding: chunked", b"X: \x00",
                     b" X: folded", b"X\r\n", b": x"]).map(lambda line: HEAD + line + b"\r\n\r\n" + BODY[:5]),
    st.sampled_from([b"zz\r\n", b"-1\r\n", b"fffffffffffffffff\r\n", b"5;" + b"x" * 20_000 + b"\r\n"]).map(
        lambda chunk: HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk + b"x" * 9),
    st.sampled_from([b"GET /", b"POST / HTTP/9.9", b"POST  / HTTP/1.1", b"POST / HTTP/1.1 x", b"POST http://[ HTTP/1.1",
                     b"CONNECT x:1 HTTP/1.1", b"GET /../../etc/passwd HTTP/1.1", b"POST // HTTP/1.1",
                     b"PRI * HTTP/2.0"]).map(lambda line: line + b"\r\nHost: x\r\n\r\n")))
def test_what_is_no_http(function, sent):
    """Refused with 400 to 499, or hung up on; nobody waits for the rest, as nothing more comes."""
    global asked
    asked += 1
    with socket.create_connection(("127.0.0.1", function.port), timeout=30) as connection:
        try:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            answer = connection.makefile("rb").read()
        except OSError:  # it hung up before all was sent
            answer = b""
    assert not answer or answer.split()[1].startswith(b"4"), answer[:300]
    assert b"Traceback" not in answer


def test_none_of_it_left_a_trace(function, place, contents):
    assert asked >= 2000
    assert function.process.poll() is None and function.client.get("/health/liveness").text == "well\n"
    assert snapshot(place) == contents
    log = function.log.read_text()
    assert "Traceback" not in log and "traceback" not in log and SECRET not in log and OWN not in log
    assert max(map(len, log.splitlines())) < 6000 and all("message" in line for line in function.lines())
    assert psutil.Process(function.process.pid).memory_info().rss - function.before < MEMORY
