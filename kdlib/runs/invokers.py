"""Invokers by name, as the command line and the notebooks ask for them."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from kdlib.errors import KdlibError, extras
from kdlib.invoke.invokers import Invoker, Mixed
from kdlib.runs.runner import INLINE

NAMES = ("inline", "processes", "ray", "http")


@contextlib.contextmanager
def make_invoker(name: str, address: str | None = None, workers: int | None = None, endpoints: Path | None = None,
                 worker_steps: str = "inline", gpus: float = 1.0) -> Iterator[Invoker]:
    """The Invoker called `name`, closed at the end.

    workers: at a time; address, gpus: see kdlib.invoke.ray.Ray; endpoints: see kdlib.invoke.http.Http, and then
    `worker_steps` names the Invoker of the Steps that no function does. Raises KdlibError for another name, and for
    options that the Invoker has not.
    """
    for word in (name, worker_steps):
        if word not in NAMES:
            raise KdlibError(f"unknown invoker '{word}'; allowed: {', '.join(NAMES)}")
    named = {name, worker_steps}
    if (address or gpus != 1) and "ray" not in named:
        raise KdlibError("address and gpus are for Ray; allowed: --invoker ray")
    if workers and not named & {"processes", "ray"}:
        raise KdlibError("workers are processes, Ray's or this machine's; allowed: --invoker processes, or ray")
    if (endpoints is None) == (name == "http"):
        raise KdlibError("the http invoker and an endpoints file go together; allowed: --invoker http --endpoints FILE")
    with contextlib.ExitStack() as stack:
        invoker = stack.enter_context(_made(name, address, workers, endpoints, gpus))
        if name == "http" and worker_steps != "http":
            beside = stack.enter_context(_made(worker_steps, address, workers, None, gpus))
            invoker = Mixed(beside, invoker)
        yield invoker


@contextlib.contextmanager
def _made(name: str, address: str | None, workers: int | None, endpoints: Path | None,
          gpus: float) -> Iterator[Invoker]:
    if name == "inline":
        yield INLINE
        return
    invoker: Invoker
    if name == "processes":
        from kdlib.invoke.processes import Processes

        invoker = Processes(workers)
    elif name == "ray":  # imported where it is asked for: it takes a second
        with extras():
            from kdlib.invoke.ray import Ray

        invoker = Ray(address, workers, gpus)
    else:
        with extras():
            from kdlib.invoke.http import Http

        assert endpoints is not None
        invoker = Http.from_file(endpoints)
    with contextlib.closing(invoker):
        yield invoker
