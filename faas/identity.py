"""Who an instance of a function is, by its environment (see faas.access)."""

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from kdlib import tokens
from kdlib.errors import KdlibError
from kdlib.tokens import AGGREGATOR

SUBJECT = re.compile(rf"{AGGREGATOR}|client-[0-9]{{4}}")


class Identity(NamedTuple):
    """subject: client-0000 ..., or aggregator; store: URL without a run's key, `{owner}` in it; accepted: secrets."""

    subject: str
    store: str
    accepted: tuple[str, ...]

    def admit(self, token: str) -> str:
        """The run that a bearer token is for. Raises kdlib.tokens.Unauthorised and Forbidden."""
        return tokens.verified(token, self.accepted, self.subject)


def from_environment(environment: Mapping[str, str] = os.environ) -> Identity:
    """By KDLIB_SUBJECT, KDLIB_STORE and KDLIB_SECRETS. Raises KdlibError for what a function cannot be."""
    subject, store = environment.get("KDLIB_SUBJECT", ""), environment.get("KDLIB_STORE", "")
    if not SUBJECT.fullmatch(subject):
        raise KdlibError(f"KDLIB_SUBJECT is {subject!r}; allowed: {AGGREGATOR}, or client- and four digits")
    if "{owner}" not in store:
        raise KdlibError(f"KDLIB_STORE is {store!r}; allowed: a URL with {{owner}} in it, such as "
                         "file:///store/{owner}")
    return Identity(subject, store.rstrip("/"), tokens.secrets(environment.get("KDLIB_SECRETS")))
