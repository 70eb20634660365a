"""Who an instance of a function is, by its environment (see faas.cluster.access)."""

import contextlib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from kdlib.errors import KdlibError
from kdlib.invoke import tokens
from kdlib.invoke.tokens import AGGREGATOR

PORT = "8080"  # where a function listens that is told nothing else
SUBJECT = re.compile(rf"{AGGREGATOR}|client-[0-9]{{4}}")


class Identity(NamedTuple):
    """subject: client-0000 ..., or aggregator; store: URL without a run's key, `{owner}` in it; accepted: secrets."""

    subject: str
    store: str
    accepted: tuple[str, ...]

    def admit(self, token: str) -> tokens.Claims:
        """What a bearer token is for. Raises kdlib.invoke.tokens.Unauthorised and Forbidden."""
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
    """By KDLIB_SUBJECT, KDLIB_STORE, KDLIB_SECRETS and PORT. Raises KdlibError for what a function cannot be."""
    subject, store = environment.get("KDLIB_SUBJECT", ""), environment.get("KDLIB_STORE", "")
    port = environment.get("PORT", PORT)
    if not SUBJECT.fullmatch(subject):
        raise KdlibError(f"KDLIB_SUBJECT is {subject!r}; allowed: {AGGREGATOR}, or client- and four digits")
    if "{owner}" not in store:
        raise KdlibError(f"KDLIB_STORE is {store!r}; allowed: a URL with {{owner}} in it, such as "
                         "file:///store/{owner}")
    if not (port.isdecimal() and 0 < int(port) < 65536):
        raise KdlibError(f"PORT is {port!r}; allowed: 1 to 65535")
    return Identity(subject, store.rstrip("/"), tokens.secrets(environment.get("KDLIB_SECRETS")))
