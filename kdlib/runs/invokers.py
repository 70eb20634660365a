"""Invokers by name, as the command line and the notebooks ask for them."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from kdlib.errors import KdlibError
from kdlib.invoke.steps import Invoker, Mixed
from kdlib.strategies.perform import perform
from kdlib.runs.runner import INLINE

NAMES = ("inline", "ray", "http")


@contextlib.contextmanager
def make_invoker(name: str, address: str | None = None, workers: int | None = None, endpoints: Path | None = None,
                 pretrain: str = "inline") -> Iterator[Invoker]:
    """The Invoker called `name`, closed at the end.

    address, workers: see kdlib.invoke.ray.Ray; endpoints: see kdlib.invoke.http.Http, and then `pretrain` names the
    Invoker of that step. Raises KdlibError for another name, and for options that the Invoker has not.
    """
    for word in (name, pretrain):
        if word not in NAMES:
            raise KdlibError(f"unknown invoker '{word}'; allowed: {', '.join(NAMES)}")
    if (address or workers) and "ray" not in (name, pretrain):
        raise KdlibError("address and workers are for Ray; allowed: --invoker ray")
    if (endpoints is None) == (name == "http"):
        raise KdlibError("the http invoker and an endpoints file go together; allowed: --invoker http --endpoints FILE")
    with contextlib.ExitStack() as stack:
        invoker = stack.enter_context(_made(name, address, workers, endpoints))
        if name == "http" and pretrain != "http":
            invoker = Mixed({"pretrain": stack.enter_context(_made(pretrain, address, workers, None))}, invoker)
        yield invoker


@contextlib.contextmanager
def _made(name, address, workers, endpoints) -> Iterator[Invoker]:
    if name == "inline":
        yield INLINE
        return
    if name == "ray":  # imported where it is asked for: it takes a second
        from kdlib.invoke.ray import Ray

        invoker = Ray(perform, address, workers)
    else:
        from kdlib.invoke.http import Http

        invoker = Http.from_file(endpoints)
    with contextlib.closing(invoker):
        yield invoker
