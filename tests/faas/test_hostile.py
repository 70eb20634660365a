"""Thousands of hostile requests to a function in a process of its own: each is refused with a reason, and no more."""

import base64
import hashlib
import json
import os
import pickle
import socket
import time
from urllib.parse import quote

import jwt
import psutil
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from functions import KEY, SIGNING, Function, call_of, deployed, tiny
from kdlib.invoke.perform import perform
from kdlib.invoke.steps import Step
from kdlib.invoke.tokens import Call, public_of, token

VALID = {"run": KEY, "round": 1, "step": "communicate", "subject": "client-0000"}
MORE = float(os.environ.get("KDLIB_HOSTILE", "1"))  # times as many requests: 5 for more than 10,000
MEMORY = 24 * 2**20  # bytes that the process may grow by: what Python has not yet given back
GOOD = 100  # after so many, a call of the driver's is answered

asked = 0


def hostile(examples):
    """So many generated requests, the same in every run of the tests."""
    return settings(max_examples=round(MORE * examples), derandomize=True, database=None, deadline=None,
                    suppress_health_check=list(HealthCheck))


def own(content=None, **call):
    """A token of the driver's for that content, whatever it is, and the call that the claims name."""
    call = VALID | call
    return token(SIGNING, "client-0000", Call(
        call["run"], Step(call["step"], call["round"], call["subject"]), tiny("fedmd").fingerprint()), content)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    perform(tiny("fedmd"), deployed(f"{folder}/store/{{owner}}", tiny("fedmd")), Step("pretrain", 0, "cnn2-128-256"))
    (folder / "outside").write_text("untouched")
    return folder


@pytest.fixture(scope="module")
def function(place):
    with Function("client-0000", f"file://{place}/store/{{owner}}", place / "log") as function:
        function.record = function.step("transfer", 0).content
        for _ in range(300):  # what is made once is made now
            refused(function, b"[]", own(b"[]"))
            missing = VALID | {"round": 2, "step": "revisit"}
            refused(function, json.dumps(missing).encode(), own(json.dumps(missing).encode(), **missing))
        process = psutil.Process(function.process.pid)
        function.before = process.memory_info().rss, process.num_fds()
        function.contents = snapshot(place)
        yield function


def snapshot(place):
    return {path.relative_to(place): hashlib.sha256(path.read_bytes()).hexdigest() for path in place.rglob("*")
            if path.is_file() and path.name != "log"}


def refused(function, content, bearer, method="POST", path="/"):
    """Ask, and expect to be refused with a reason."""
    global asked
    asked += 1
    bearer = bearer.encode() if isinstance(bearer, str) else bearer
    headers = {"Authorization": b"Bearer " + bearer} if bearer else {}
    answer = function.client.request(method, path, headers=headers, content=content)
    if asked % GOOD == 0:
        clock = time.monotonic()
        assert function.step("transfer", 0).content == function.record and time.monotonic() - clock < 1
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
        content = json.dumps(body).encode()
        refused(function, content, own(content))


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
    refused(function, content, own(content))


BODY = json.dumps(VALID).encode()
RAW = base64.urlsafe_b64decode(SIGNING.removeprefix("private-") + "=")
PRIVATE = Ed25519PrivateKey.from_private_bytes(RAW)
OTHERS = Ed25519PrivateKey.from_private_bytes(b"x" * 32)


def signed(key=PRIVATE, algorithm="EdDSA", headers=None, issued=0, life=300, **claims):
    """A token that another would take; issued: seconds from now; life: seconds from then."""
    issued += int(time.time())
    whole = {"aud": "client-0000", "jti": os.urandom(8).hex(), "iat": issued, "exp": issued + life,
             "experiment": call_of("communicate", 1).experiment, "body": hashlib.sha256(BODY).hexdigest()}
    whole = {name: claim for name, claim in (whole | VALID | claims).items() if claim != "absent"}
    return jwt.encode(whole, key, algorithm, headers)


def raw(header, claims, signature=b""):
    """A token of any header and claims, which no library would sign."""
    parts = [json.dumps(part).encode() if not isinstance(part, bytes) else part for part in (header, claims)]
    return b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in (*parts, signature))


CLAIMS = {"aud": "client-0000", "jti": "1", "iat": 1, "exp": 2**40} | VALID
TOKENS = st.one_of(
    st.binary(min_size=1, max_size=200).map(lambda junk: base64.b64encode(junk)),
    st.text("abcdefghijklmnopqrstuvwxyzABCDEF0123456789-_.=", min_size=1, max_size=6000).map(str.encode),
    st.tuples(st.sampled_from(["none", "None", "NONE", "nOnE", "", "HS257", "RS256", "ES256", "EdDSA", "HS512", "dir"]),
              st.binary(max_size=40)).map(lambda made: raw({"alg": made[0], "typ": "JWT"}, CLAIMS, made[1])),
    st.binary(min_size=32, max_size=32).map(lambda raw: signed(Ed25519PrivateKey.from_private_bytes(raw))),
    st.tuples(st.sampled_from([public_of(SIGNING), PRIVATE.public_key().public_bytes_raw(), SIGNING]),
              st.sampled_from(["HS256", "HS384", "HS512"])).map(  # as if the public key were a secret
        lambda made: signed((made[0] if isinstance(made[0], bytes) else made[0].encode()) * 2, made[1])),
    st.integers(-10**6, -71).map(lambda seconds: signed(issued=seconds, life=9)),
    st.integers(120, 10**6).map(lambda seconds: signed(issued=seconds)),
    st.integers(901, 10**12).map(lambda seconds: signed(life=seconds)),
    st.integers(-10**6, 0).map(lambda seconds: signed(life=seconds)),
    st.sampled_from(["client-0001", "aggregator", "", "client-0000 ", ["client-0000", "x"], 7]).map(
        lambda audience: signed(aud=audience)),
    st.sampled_from(["f" * 16, "", "../x", KEY.upper()]).map(lambda run: signed(run=run)),
    st.integers(2, 999).map(lambda round_: signed(round=round_)),
    st.sampled_from(["aud", "jti", "iat", "exp", "run", "round", "step", "subject", "body"]).map(
        lambda name: signed(**{name: "absent"})),
    st.text(max_size=64).map(lambda body: signed(body=body)),
    st.tuples(st.sampled_from(["iat", "exp"]), st.sampled_from(["soon", [], {}, None, "1" * 400])).map(
        lambda claim: raw({"alg": "EdDSA"}, CLAIMS | {claim[0]: claim[1]}, b"x" * 32)),
    st.sampled_from(["../../dev/null", "' or 1=1", "http://127.0.0.1/key"]).map(
        lambda key: signed(OTHERS, headers={"kid": key, "jku": key})),
    st.integers(1, 3000).map(lambda depth: raw(b"[" * depth, CLAIMS)))


@hostile(500)
@given(TOKENS)
def test_tokens_that_open_nothing(function, bearer):
    assert refused(function, BODY, bearer) in (401, 403)


@hostile(250)
@given(st.sampled_from(["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "POST", "TRACE", "PROPFIND"]),
       st.one_of(st.sampled_from(["/..%2f..%2fetc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/health/liveness/%2e%2e/x",
                                  "/store", "/docs", "/openapi.json", "/.git/config", "/health", "/a/", "/%00"]),
                 st.text(min_size=1, max_size=60).map(lambda text: "/x" + quote(text.encode("utf-8", "replace")))),
       st.sampled_from([own(), "", "x"]))
def test_other_ways_in(function, method, path, bearer):
    assert refused(function, None, bearer, method, path) in (404, 405)


HEAD = f"POST / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {own()}\r\n".encode()


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


def test_none_of_it_left_a_trace(function, place):
    assert asked >= 2000 * MORE
    assert function.process.poll() is None and function.client.get("/health/liveness").text == "well\n"
    assert snapshot(place) == function.contents
    log = function.log.read_text()
    assert "Traceback" not in log and "traceback" not in log and SIGNING not in log and "Bearer" not in log
    assert max(map(len, log.splitlines())) < 6000 and all("message" in line for line in function.lines())
    assert not [line for line in function.lines() if line.get("status", 0) >= 500]
    process = psutil.Process(function.process.pid)
    memory, handles = function.before
    assert process.memory_info().rss - memory < MEMORY and process.num_fds() <= handles + 2
