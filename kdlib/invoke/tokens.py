"""Short-lived bearer tokens, one a call: the driving process signs them, and a function can only check them.

The two ends hold different keys, so no function can ask another one for anything (Ed25519, RFC 8032 and 8037).
"""

import base64
import hashlib
import json
import re
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from kdlib.errors import KdlibError
from kdlib.files import content
from kdlib.invoke.steps import Step

AGGREGATOR = "aggregator"  # the function that serves the server and every architecture; others are named like clients

SIGNING_KEY, PUBLIC_KEYS = "KDLIB_SIGNING_KEY", "KDLIB_PUBLIC_KEYS"  # of the driving process, and of functions
PRIVATE, PUBLIC = "private-", "public-"  # so that neither is given in the other's place
KEY = re.compile(r"[A-Za-z0-9_-]{43}")  # 32 bytes in base64url
ALGORITHM = "EdDSA"  # the only one, so that a token cannot choose
LEEWAY = 60  # seconds that two clocks may differ by
LONGEST_LIFE = 15 * 60  # seconds from iat to exp
LONGEST = 4096  # characters of a token


class Unauthorised(KdlibError):
    """No token, or none that is valid now."""


class Forbidden(KdlibError):
    """A valid token, but for something else."""


class Used(KdlibError):
    """A valid token that this function has been shown before."""


def make_key() -> str:
    """A new signing key, as KDLIB_SIGNING_KEY has it."""
    return PRIVATE + _text(Ed25519PrivateKey.generate().private_bytes_raw())


def public_of(key: str) -> str:
    """The public key of a signing key. Raises KdlibError, which does not show it, where that is none."""
    return PUBLIC + _text(_private(key).public_key().public_bytes_raw())


def signing_key(text: str | None, source: object = SIGNING_KEY) -> str:
    """`text` without blanks around it. Raises KdlibError, which names `source` alone, where it is no signing key."""
    key = (text or "").strip()
    _private(key, source)
    return key


def read_key(path: Path) -> str:
    """The signing key in the file. Raises KdlibError, which does not show it, where it holds none, and OSError."""
    return signing_key(content(path, LONGEST).decode("ascii", "replace"), path)


def accepted(text: str | None) -> tuple[Ed25519PublicKey, ...]:
    """The one or two keys of KDLIB_PUBLIC_KEYS. Raises KdlibError, which shows none, where it holds anything else.

    To rotate: let functions accept NEW,OLD, give callers the new signing key, let functions accept NEW.
    """
    found = [word.strip() for word in (text or "").split(",")]
    if not 1 <= len(found) <= 2 or any(_bytes(word, PUBLIC) is None for word in found):
        raise KdlibError(f"{PUBLIC_KEYS} holds {'no key' if not text else 'what is no public key'}; allowed: one, or "
                         f"two separated by a comma, each {PUBLIC} and 43 characters")
    return tuple(Ed25519PublicKey.from_public_bytes(_bytes(word, PUBLIC) or b"") for word in found)


class Call(NamedTuple):
    """What a token vouches for: that the driving process asks for this Step of this run.

    experiment: the fingerprint of the run's, None where the caller does not know it: then nothing is carried out.
    """

    run: str
    step: Step
    experiment: str | None

    @property
    def body(self) -> bytes:
        """What is sent."""
        return json.dumps({"run": self.run, "round": self.step.round, "step": self.step.name,
                           "subject": self.step.subject}).encode()


def token(key: str, function: str, call: Call, body: bytes | None = None, seconds: int = 600) -> str:
    """A token for one call of `function` (its KDLIB_SUBJECT), valid for `seconds` from now.

    key: the signing key; body: what is sent, where it is not `call.body`.
    """
    now, sent = int(time.time()), call.body if body is None else body
    claims = {"aud": function, "jti": uuid.uuid4().hex, "iat": now, "exp": now + seconds,
              "run": call.run, "round": call.step.round, "step": call.step.name, "subject": call.step.subject,
              "experiment": call.experiment, "body": hashlib.sha256(sent).hexdigest()}
    return jwt.encode(claims, _private(key), algorithm=ALGORITHM)


class Claims(NamedTuple):
    """What a valid token says. id: no other token has it; until: seconds since 1970 when it is surely over."""

    call: Call
    body: str
    id: str
    until: float

    def expect(self, call: Call, body: bytes) -> None:
        """Raises Forbidden where the token was made for another call; the experiment is for the Step to compare."""
        if self.call[:2] != call[:2]:
            raise Forbidden("the token is for another run, round, step or subject")
        if self.body != hashlib.sha256(body).hexdigest():
            raise Forbidden("the token is for another body")


def verified(text: str, keys: tuple[Ed25519PublicKey, ...], function: str) -> Claims:
    """What the token says. Raises Unauthorised, or Forbidden where it is for another function.

    Claims are looked at only once the signature is found right.
    """
    if not 0 < len(text) <= LONGEST:
        raise Unauthorised("no bearer token of a length that a token has")
    for key in keys:
        try:
            claims = jwt.decode(text, key, algorithms=[ALGORITHM], audience=function, leeway=LEEWAY,
                                options={"require": ["aud", "jti", "iat", "exp"], "strict_aud": True})
        except jwt.InvalidSignatureError:
            continue
        except jwt.InvalidAudienceError as error:
            raise Forbidden("the token is for another function") from error
        except jwt.ExpiredSignatureError as error:
            raise Unauthorised("the token has expired") from error
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise Unauthorised("the token is malformed, not yet valid, or not of Ed25519") from error
        if not 0 < int(claims["exp"]) - int(claims["iat"]) <= LONGEST_LIFE:
            raise Unauthorised(f"the token lives longer than {LONGEST_LIFE} seconds")
        return _claims(claims)
    raise Unauthorised("the token is signed by another key")


class Spent:
    """The tokens that were shown already, each until it is over. Not for several threads."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def spend(self, claims: Claims, now: float | None = None) -> None:
        """Take note of the token. Raises Used at the second time."""
        now = time.time() if now is None else now
        if claims.id in self._until:
            raise Used("the token was used before; ask again with a new one")
        # In the order of their end, nearly: those that are over leave as new ones come.
        while self._until and next(iter(self._until.values())) < now:
            del self._until[next(iter(self._until))]
        self._until[claims.id] = claims.until

    def __len__(self) -> int:
        return len(self._until)


def _claims(claims: Mapping[str, Any]) -> Claims:
    run, round_, step, subject = (claims.get(name) for name in ("run", "round", "step", "subject"))
    experiment, body, id_ = (claims.get(name) for name in ("experiment", "body", "jti"))
    if not (isinstance(run, str) and type(round_) is int and isinstance(step, str) and isinstance(subject, str)
            and isinstance(experiment, str | None) and isinstance(body, str) and isinstance(id_, str)):
        raise Unauthorised("the token does not say for which call it is")
    return Claims(Call(run, Step(step, round_, subject), experiment), body, id_, float(claims["exp"]) + LEEWAY)


def _private(text: str, source: object = SIGNING_KEY) -> Ed25519PrivateKey:
    if (found := _bytes(text, PRIVATE)) is None:
        raise KdlibError(f"{source} is {'no signing key' if text else 'empty or not there'}; allowed: {PRIVATE} and 43 "
                         "characters, as `python -m faas up` and `endpoints` write them beside the endpoints file")
    return Ed25519PrivateKey.from_private_bytes(found)


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _bytes(text: str, kind: str) -> bytes | None:
    """The 32 bytes of a key of that kind, None where it is none."""
    if not (text.startswith(kind) and KEY.fullmatch(text.removeprefix(kind))):
        return None
    return base64.urlsafe_b64decode(text.removeprefix(kind) + "=")
