"""Invokers by name, as the command line and the notebooks ask for them."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from kdlib.errors import KdlibError, extras
from kdlib.invoke import forkserver
from kdlib.invoke.choice import AUTO, choose
from kdlib.invoke.invokers import Inline, Invoker, Mixed
from kdlib.settings.experiment import Experiment

NAMES = ("inline", "processes", "ray", "http")
INLINE = Inline()


@contextlib.contextmanager
def make_invoker(name: str = AUTO, address: str | None = None, workers: int | None = None,
                 endpoints: Path | None = None, worker_steps: str = AUTO, gpus: float = 1.0,
                 experiment: Experiment | None = None) -> Iterator[Invoker]:
    """The Invoker called `name`, closed at the end.

    workers: at a time; address, gpus: see kdlib.invoke.ray.Ray; endpoints: see kdlib.invoke.http.Http, and then
    `worker_steps` names the Invoker of the Steps that no function does; experiment: what it is for, by which `auto`
    becomes processes or inline (kdlib.invoke.choice); inline without. Raises KdlibError for another
    name, and for options that the Invoker has not.
    """
    for word in (name, worker_steps):
        if word not in (*NAMES, AUTO):
            raise KdlibError(f"unknown invoker '{word}'; allowed: {', '.join((AUTO, *NAMES))}")
    if name != "http":
        worker_steps = name
    named = {name, worker_steps}
    if (address or gpus != 1) and "ray" not in named:
        raise KdlibError("address and gpus are for Ray; allowed: --invoker ray")
    if workers and not named & {"processes", "ray", AUTO}:
        raise KdlibError("workers are processes, Ray's or this machine's; allowed: --invoker processes, or ray")
    if (endpoints is None) == (name == "http"):
        raise KdlibError("the http invoker and an endpoints file go together; allowed: --invoker http --endpoints FILE")
    name = _resolved(name, experiment, workers)
    if name == "processes":
        forkserver.start()
    with contextlib.ExitStack() as stack:
        invoker = stack.enter_context(_made(name, address, workers, endpoints, gpus))
        if name == "http" and worker_steps != "http":
            worker_steps = _resolved(worker_steps, experiment, workers)
            invoker = Mixed(stack.enter_context(_made(worker_steps, address, workers, None, gpus)), invoker)
        yield invoker


def _resolved(name: str, experiment: Experiment | None, workers: int | None) -> str:
    if name != AUTO:
        return name
    return choose(experiment, workers) if experiment else "inline"


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
