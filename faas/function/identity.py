"""Who an instance of a function is, by its environment (see faas.cluster.access)."""

import contextlib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from kdlib.errors import KdlibError
from kdlib.invoke import tokens
from kdlib.invoke.tokens import AGGREGATOR

PORT = "8080"  # where a function listens that is told nothing else
DEADLINE = 1200  # seconds of a Step: twice as long as its caller waits, who then asks again
LONGEST_DEADLINE = 7 * 24 * 3600
SUBJECT = re.compile(rf"{AGGREGATOR}|client-[0-9]{{4}}")


class Identity(NamedTuple):
    """subject: client-0000 ..., or aggregator; store: URL without a run's key, `{owner}` in it; accepted: public keys.

    deadline: seconds after which a Step is stuck, and the instance ends for another one to begin.
    """

    subject: str
    store: str
    accepted: tuple[Ed25519PublicKey, ...]
    deadline: float = DEADLINE

    def admit(self, token: str) -> tokens.Claims:
        """What a bearer token says. Raises kdlib.invoke.tokens.Unauthorised and Forbidden."""
        return tokens.verified(token, self.accepted, self.subject)


@contextlib.contextmanager
def or_exit() -> Iterator[None]:
    """What is wrong with the environment ends the process, with one line and status 2."""
    try:
        yield
    except KdlibError as error:
        print(f"faas: {error}", file=sys.stderr)
        sys.exit(2)


def from_environment(environment: Mapping[str, str] = os.environ) -> Identity:
    """By KDLIB_SUBJECT, KDLIB_STORE, KDLIB_PUBLIC_KEYS, KDLIB_DEADLINE and PORT.

    Raises KdlibError for what a function cannot be.
    """
    subject, store = environment.get("KDLIB_SUBJECT", ""), environment.get("KDLIB_STORE", "")
    port, deadline = environment.get("PORT", PORT), environment.get("KDLIB_DEADLINE", str(DEADLINE))
    if not SUBJECT.fullmatch(subject):
        raise KdlibError(f"KDLIB_SUBJECT is {subject!r}; allowed: {AGGREGATOR}, or client- and four digits")
    if "{owner}" not in store:
        raise KdlibError(f"KDLIB_STORE is {store!r}; allowed: a URL with {{owner}} in it, such as "
                         "file:///store/{owner}")
    if not (port.isdecimal() and 0 < int(port) < 65536):
        raise KdlibError(f"PORT is {port!r}; allowed: 1 to 65535")
    if not (deadline.isdecimal() and 0 < int(deadline) <= LONGEST_DEADLINE):
        raise KdlibError(f"KDLIB_DEADLINE is {deadline!r}; allowed: 1 to {LONGEST_DEADLINE} seconds of a Step")
    return Identity(subject, store.rstrip("/"), tokens.accepted(environment.get(tokens.PUBLIC_KEYS)), float(deadline))
