"""Tokens over real HTTP: each opens one call of one function, once, and a function can make none."""

import base64
import hashlib
import json
import os
import subprocess
import sys
import time

import jwt
import psutil
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from functions import KEY, OTHER, ROOT, SIGNING, Function, call_of, headers_of, tiny
from kdlib.errors import KdlibError
from kdlib.invoke.http import Http
from kdlib.invoke.steps import Step
from kdlib.invoke.tokens import (
    LEEWAY,
    Call,
    Claims,
    Spent,
    Used,
    accepted,
    make_key,
    public_of,
    signing_key,
    token,
    verified,
)

PRIVATE = Ed25519PrivateKey.from_private_bytes(base64.urlsafe_b64decode(SIGNING.removeprefix("private-") + "="))


def call():
    return call_of("communicate", 1)


def forged(key=PRIVATE, algorithm="EdDSA", **claims):
    """A token of the driver's but for these claims; None: without it."""
    now = int(time.time())
    whole = {"aud": "client-0000", "jti": "1", "iat": now, "exp": now + 300, "run": KEY, "round": 1,
             "step": "communicate", "subject": "client-0000", "experiment": call().experiment,
             "body": hashlib.sha256(call().body).hexdigest()} | claims
    return jwt.encode({name: claim for name, claim in whole.items() if claim is not None}, key, algorithm)


@pytest.mark.parametrize(("bearer", "status", "said"), [
    (lambda: None, 401, "no bearer token"),
    (lambda: "", 401, "no bearer token"),
    (lambda: "a.b.c", 401, "malformed"),
    (lambda: "x" * 9000, 401, "no bearer token"),
    (lambda: token(make_key(), "client-0000", call()), 401, "signed by another key"),
    (lambda: token(SIGNING, "client-0000", call(), seconds=-120), 401, "expired"),
    (lambda: token(SIGNING, "client-0000", call(), seconds=86400), 401, "lives longer than 900 seconds"),
    (lambda: forged(None, "none"), 401, "not of Ed25519"),
    (lambda: forged(public_of(SIGNING), "HS256"), 401, "not of Ed25519"),
    (lambda: forged(public_of(SIGNING).removeprefix("public-") * 2, "HS512"), 401, "not of Ed25519"),
    (lambda: forged(jti=None), 401, "malformed"),
    (lambda: forged(jti=7), 401, "malformed"),
    (lambda: forged(body=None), 401, "does not say for which call"),
    (lambda: forged(round=True), 401, "does not say for which call"),
    (lambda: forged(run=["x"]), 401, "does not say for which call"),
    (lambda: forged(experiment=7), 401, "does not say for which call"),
    (lambda: token(SIGNING, "client-0001", call()), 403, "for another function"),
    (lambda: token(SIGNING, "aggregator", call()), 403, "for another function"),
    (lambda: token(SIGNING, "client-0000", call_of("communicate", 1, run=OTHER)), 403, "for another run, round"),
    (lambda: token(SIGNING, "client-0000", call_of("communicate", 2)), 403, "for another run, round"),
    (lambda: token(SIGNING, "client-0000", call_of("transfer", 1)), 403, "for another run, round"),
    (lambda: token(SIGNING, "client-0000", call_of("communicate", 1, "client-0001")), 403, "for another run, round"),
    (lambda: token(SIGNING, "client-0000", call(), b"{}"), 403, "for another body"),
    (lambda: forged(body="0" * 64), 403, "for another body"),
])
def test_only_its_own_token_opens_it(bearer, status, said, client):
    given = bearer()
    answer = client.client.post("/", content=call().body, headers={"Authorization": f"Bearer {given}"} if given else {})
    assert answer.status_code == status and said in answer.json()["error"], answer.text
    assert (answer.headers.get("www-authenticate") == "Bearer") == (status == 401)


def test_other_ways_to_send_it_open_nothing(client):
    bearer = token(SIGNING, "client-0000", call())
    for header in ("Basic eDp5", "Bearer", f"Basic {bearer}", bearer):
        assert client.client.post("/", content=call().body, headers={"Authorization": header}).status_code == 401


def test_the_same_call_with_other_blanks_is_another_body(client):
    asked = call_of("transfer", 0)
    loose = json.dumps(json.loads(asked.body), indent=1).encode()
    answer = client.client.post("/", content=loose, headers=headers_of(asked))
    assert answer.status_code == 403 and "for another body" in answer.json()["error"]


def test_a_token_opens_once_and_what_failed_with_it_has_not_used_it_up(client, aggregator):
    aggregator.step("pretrain", 0, "cnn2-128-256")
    asked = call_of("transfer", 0)
    headers = headers_of(asked)
    assert client.client.post("/", content=b"{}", headers=headers).status_code == 400
    assert client.client.post("/", content=asked.body + b" ", headers=headers).status_code == 403
    first = client.client.post("/", content=asked.body, headers=headers)
    again = client.client.post("/", content=asked.body, headers=headers)
    assert (first.status_code, again.status_code) == (200, 409) and "used before" in again.json()["error"]
    assert client.ask(asked).content == first.content, "with a new one"


@pytest.mark.parametrize(("vouched", "status"), [
    (tiny("fedmd").fingerprint(), 200), (tiny("fedmd", seed=3).fingerprint(), 422), (None, 422), ("", 422),
    (tiny("fedmd").fingerprint()[:16], 422),
])
def test_a_warm_function_carries_out_what_the_caller_vouches_for(vouched, status, client, aggregator):
    aggregator.step("pretrain", 0, "cnn2-128-256")
    assert client.step("transfer", 0).status_code == 200
    answer = client.ask(call_of("transfer", 0)._replace(experiment=vouched))
    assert answer.status_code == status
    assert status == 200 or "is not the experiment that the caller vouches for" in answer.json()["error"]


def test_while_keys_are_rotated_both_open_and_then_the_new_one_alone(place, tmp_path):
    new = make_key()
    for keys, opened in ((f"{public_of(new)},{public_of(SIGNING)}", {new, SIGNING}), (public_of(new), {new})):
        with Function("client-0000", f"file://{place}/store/{{owner}}", tmp_path / "log",
                      KDLIB_PUBLIC_KEYS=keys) as function:
            for key in (new, SIGNING, make_key()):
                asked = call_of("aggregate", 1)
                answer = function.client.post("/", content=asked.body, headers={
                    "Authorization": f"Bearer {token(key, 'client-0000', asked)}"})
                assert answer.status_code == (422 if key in opened else 401)


def test_a_function_has_no_key_to_sign_with(client):
    """What is in its environment lets nobody ask another function."""
    environment = psutil.Process(client.process.pid).environ()
    assert environment["KDLIB_PUBLIC_KEYS"] == public_of(SIGNING)
    assert SIGNING not in environment.values() and "KDLIB_SIGNING_KEY" not in environment
    with pytest.raises(KdlibError, match="KDLIB_SIGNING_KEY is no signing key"):
        token(environment["KDLIB_PUBLIC_KEYS"], "client-0001", call())


@pytest.mark.parametrize("text", [None, "", "x", "private-x", public_of(SIGNING), SIGNING + "x", SIGNING.upper(),
                                  "private-" + "\u0660" * 43])
def test_what_is_no_signing_key_is_said_and_not_shown(text):
    with pytest.raises(KdlibError, match="allowed: private- and 43 characters") as error:
        signing_key(text)
    assert not text or len(text) < 9 or text not in str(error.value)


def test_a_key_may_have_blanks_around_it_as_a_file_has():
    assert signing_key(f" {SIGNING}\n") == SIGNING
    assert len(accepted(f"{public_of(SIGNING)} , {public_of(make_key())}\n")) == 2


def test_what_a_token_says_is_what_was_asked():
    asked = Call(KEY, Step("digest+revisit>communicate", 3, "client-0000"), "f" * 64)
    claims = verified(token(SIGNING, "client-0000", asked), accepted(public_of(SIGNING)), "client-0000")
    assert claims.call == asked and abs(claims.until - time.time() - 600 - LEEWAY) < 5
    claims.expect(asked, asked.body)
    assert len({verified(token(SIGNING, "client-0000", asked), accepted(public_of(SIGNING)), "client-0000").id
                for _ in range(9)}) == 9


def test_used_tokens_are_forgotten_once_they_are_over():
    spent = Spent()
    for number in range(10_000):
        spent.spend(Claims(call(), "", str(number), number + 100.0), now=float(number))
    assert len(spent) <= 101
    with pytest.raises(Used):
        spent.spend(Claims(call(), "", "9999", 1e9), now=9999.0)


def test_a_driver_that_has_no_key_says_so(tmp_path):
    (tmp_path / "endpoints.json").write_text('{"functions": {"client-0000": {"url": "http://127.0.0.1:1"}}}')
    code = "import sys; from kdlib.invoke.http import Http; Http.from_file(sys.argv[1])"
    hidden = {name: value for name, value in os.environ.items() if name != "KDLIB_SIGNING_KEY"}
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "endpoints.json"], capture_output=True, text=True,
                          env=hidden | {"PYTHONPATH": str(ROOT)})
    assert "KDLIB_SIGNING_KEY is empty or not there; allowed: private- and 43" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("content", [b"\xff\xfe", b"x", b"private-", SIGNING.encode() + b"\n" * 5000, b""])
def test_a_key_file_that_holds_none_is_one_line_that_names_it(content, tmp_path, monkeypatch):
    monkeypatch.delenv("KDLIB_SIGNING_KEY", raising=False)
    (tmp_path / "endpoints.json").write_text('{"functions": {"client-0000": {"url": "http://127.0.0.1:1"}}}')
    (tmp_path / "endpoints.key").write_bytes(content)
    with pytest.raises(KdlibError, match=r"endpoints\.key") as error:
        Http.from_file(tmp_path / "endpoints.json")
    assert "\n" not in str(error.value) and SIGNING not in str(error.value)


@pytest.mark.parametrize("name", ["endpoints.json", "endpoints.key"])
def test_a_pipe_or_a_device_in_their_place_is_not_waited_for(name, tmp_path, monkeypatch):
    monkeypatch.delenv("KDLIB_SIGNING_KEY", raising=False)
    (tmp_path / "endpoints.json").write_text('{"functions": {}}')
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(KdlibError, match="is a pipe or a device; allowed: a file"):
        Http.from_file(tmp_path / "endpoints.json")
