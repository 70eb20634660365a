"""Which Invoker a run gets that asks for none: decided here, for the command line, notebooks and Python alike."""

import logging
import multiprocessing
import os

from kdlib.errors import KdlibError
from kdlib.invoke import forkserver
from kdlib.machine import cores, free_memory
from kdlib.registry import NETWORKS, STRATEGIES
from kdlib.settings.architectures import sized
from kdlib.settings.experiment import Experiment

AUTO = "auto"
MOST = "KDLIB_WORKERS"  # says how many Steps at a time a process may have that is one of several side by side
OF_A_WORKER = 2**30  # bytes, roughly: PyTorch and Lightning take half, the rest is a client's data and model

log = logging.getLogger("kdlib")


def choose(experiment: Experiment, workers: int | None = None) -> str:
    """`processes` where there is room for two Steps at a time, else `inline`.

    workers: how many are asked for. Inline also on a GPU, of which there is one; for a strategy or network of a
    notebook's own cell, which no other process knows; in a process that may have no children; and where none can be
    forked, with a warning.
    """
    if (workers or room(experiment)) < 2 or experiment.device != "cpu":
        return "inline"
    if multiprocessing.current_process().daemon or forkserver.inherited():
        return "inline"
    if not (STRATEGIES.elsewhere(experiment.strategy)
            and all(NETWORKS.elsewhere(sized(name)[0]) for name in experiment.architectures)):
        return "inline"
    if not forkserver.there():
        log.warning("kdlib: no process can be forked from here; Steps run one after another")
        return "inline"
    return "processes"


def foresee(name: str, workers: int | None) -> None:
    """Begin to load what processes need, where `name` may become them, before anybody knows of which experiment."""
    if forkserver.there() and not forkserver.inherited() and (
            name == "processes" or (name == AUTO and (workers or min(cores(), most())) > 1)):
        forkserver.start()


def room(experiment: Experiment) -> int:
    """How many Steps this machine takes at a time, by its cores, its free memory, and KDLIB_WORKERS."""
    return max(1, min(most(), cores() // experiment.threads, free_memory() // OF_A_WORKER))


def most() -> int:
    """What KDLIB_WORKERS says, else the cores. Raises KdlibError where that is no number."""
    said = os.environ.get(MOST)
    if said is None:
        return cores()
    if not (said.isascii() and said.isdigit()) or not int(said):
        raise KdlibError(f"{MOST} is '{said[:40]}'; allowed: how many Steps may run at a time, 1 or more")
    return int(said)
