"""Short-lived bearer tokens: who may ask a function for a Step, and for which run."""

import os
import time
from typing import NamedTuple

import jwt

from kdlib.errors import KdlibError

AGGREGATOR = "aggregator"  # the function that serves the server and every architecture; others are named like clients

ALGORITHM = "HS256"  # the only one, so that a token cannot choose; the secret never leaves the two ends
SHORTEST = 32  # characters of a secret: 256 bits where it is hexadecimal and no less than HS256 asks for
LEEWAY = 60  # seconds that two clocks may differ by
LONGEST_LIFE = 15 * 60  # seconds from iat to exp
LONGEST = 4096  # characters of a token


class Unauthorised(KdlibError):
    """No token, or none that is valid now."""


class Forbidden(KdlibError):
    """A valid token, but for something else."""


def secrets(text: str | None) -> tuple[str, ...]:
    """The one or two secrets of KDLIB_SECRETS: the first signs, all are accepted.

    To rotate: NEW,OLD at the functions, NEW at the caller, NEW at the functions. Raises KdlibError, which names none.
    """
    found = tuple(secret.strip() for secret in (text or "").split(","))
    if not 1 <= len(found) <= 2 or any(len(secret) < SHORTEST for secret in found):
        raise KdlibError(f"KDLIB_SECRETS holds {'no secret' if not text else 'what cannot be used'}; allowed: one "
                         f"secret, or two separated by a comma, of at least {SHORTEST} characters each")
    return found


def from_environment() -> tuple[str, ...]:
    """See `secrets`, of the environment's KDLIB_SECRETS."""
    return secrets(os.environ.get("KDLIB_SECRETS"))


class Claims(NamedTuple):
    """What a token vouches for. run: its key; experiment: its fingerprint, None where the caller does not know it."""

    run: str
    experiment: str | None


def token(secret: str, audience: str, run: str, seconds: int = 600, experiment: str | None = None) -> str:
    """A token for the function `audience` (its KDLIB_SUBJECT) and the run of that key, valid for `seconds` from now.

    experiment: the fingerprint of the run's, without which a function carries nothing out.
    """
    now = int(time.time())
    vouched = {"experiment": experiment} if experiment else {}
    return jwt.encode({"aud": audience, "sub": run, "iat": now, "exp": now + seconds} | vouched, secret,
                      algorithm=ALGORITHM)


def verified(text: str, accepted: tuple[str, ...], audience: str) -> Claims:
    """What the token is for. Raises Unauthorised, or Forbidden where it is for another function.

    Claims are looked at only once the signature is found right; PyJWT compares signatures in constant time.
    """
    if not 0 < len(text) <= LONGEST:
        raise Unauthorised("no bearer token of a length that a token has")
    for secret in accepted:
        try:
            claims = jwt.decode(text, secret, algorithms=[ALGORITHM], audience=audience, leeway=LEEWAY,
                                options={"require": ["aud", "sub", "iat", "exp"], "strict_aud": True})
        except jwt.InvalidSignatureError:
            continue
        except jwt.InvalidAudienceError as error:
            raise Forbidden("the token is for another function") from error
        except jwt.ExpiredSignatureError as error:
            raise Unauthorised("the token has expired") from error
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise Unauthorised("the token is malformed, not yet valid, or of another algorithm than HS256") from error
        if not 0 < int(claims["exp"]) - int(claims["iat"]) <= LONGEST_LIFE:
            raise Unauthorised(f"the token lives longer than {LONGEST_LIFE} seconds")
        experiment = claims.get("experiment")
        if not isinstance(experiment, str | None):
            raise Unauthorised("the token names an experiment by what is no text")
        return Claims(claims["sub"], experiment)  # PyJWT takes no other type than text
    raise Unauthorised("the token is signed by another secret")
