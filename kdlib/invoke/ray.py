"""Steps as Ray tasks, on this machine or on a cluster by its address."""

import contextlib
import logging
import os
import socket
from collections.abc import Iterable, Iterator
from typing import Any

from kdlib.errors import KdlibError
from kdlib.invoke.forkserver import PRELOADED
from kdlib.invoke.invokers import Base
from kdlib.invoke.perform import Perform, perform
from kdlib.invoke.steps import Record, Step
from kdlib.invoke.worker import answered, carry_out, errand, largest_first
from kdlib.settings.experiment import Experiment
from kdlib.store.store import Store

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when ray is imported: nothing is sent anywhere
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # else a lost node's log goes to stdout, amid the results

import ray
from ray._private import ray_constants
from ray.exceptions import NodeDiedError, RayError, RayTaskError, WorkerCrashedError

RETRIES = 5  # of a Step whose worker or node is lost
OBJECT_STORE = 128 * 2**20  # bytes: only Records travel through it, tensors go through the Store
ALLOWED = "allowed: HOST:PORT of a head, or auto; for a cluster with a token also RAY_AUTH_MODE=token"
ENDED = "Ray ended before the Step did; the same command starts it anew and goes on from here"
LONGEST_FOLDER = 39  # bytes: what Ray adds for a socket has up to 68, and the whole path 107 at most
QUIET = 10.0  # seconds without a Record after which the nodes are looked at

log = logging.getLogger("kdlib")


class Ray(Base):
    """A Stage's Steps as Ray tasks, `threads` CPUs each, those of the largest models first.

    address: of a running cluster ("auto" finds one here), whose nodes have kdlib and reach the store; None starts Ray
    on this machine at the first Step, once, with room for `workers` Steps at a time (default: what the cores allow); it
    listens on loopback alone.
    gpus: of a Step whose experiment's device is `cuda`; a fraction lets several share one.
    A Step whose worker or node is lost is carried out again; what an unfinished one wrote is written over. From a node
    that falls silent, its machine frozen or its cable out, Ray itself awaits an answer for many minutes: once the
    cluster has given such a node up, every Step that is out is sent a second time, and the first Record counts.
    """

    name = "ray"

    def __init__(self, address: str | None = None, workers: int | None = None, gpus: float = 1.0,
                 perform: Perform = perform) -> None:
        self.perform, self.address, self.workers, self.gpus = perform, address, workers, gpus
        self.task: Any = None  # Ray's remote function, while there is a cluster

    def run(self, key: str, experiment: Experiment, store: Store, steps: list[Step]) -> Iterator[Record]:
        """See Invoker.run. Raises KdlibError where a Step cannot be placed, or was lost too often."""
        if "memory" in store.fs.protocol:
            raise KdlibError(f"Ray's workers cannot reach {store.url}; allowed: a folder or an object store")
        self.start(experiment.threads)
        place = self.task.options(num_cpus=experiment.threads, max_retries=RETRIES,
                                  num_gpus=self.gpus if experiment.device == "cuda" else 0)
        sent = errand(key, experiment, store)

        def send(numbers: Iterable[int]) -> dict[Any, int]:
            return {place.remote(self.perform, sent, steps[number], self.name): number for number in numbers}

        waiting, nodes = send(largest_first(experiment, steps)), _alive()
        try:
            while waiting:
                ready, _ = ray.wait(list(waiting), timeout=QUIET)
                if ready:
                    number = waiting.pop(ready[0])
                    for copy in [reference for reference, other in waiting.items() if other == number]:
                        del waiting[copy]
                        ray.cancel(copy)
                    yield _record(ready[0], steps[number])
                    continue
                before, nodes = nodes, _alive()
                if lost := before - nodes:
                    log.warning("kdlib: Ray lost %d of its nodes; what was out is sent again", len(lost))
                    _find_room(experiment.threads)
                    waiting |= send(sorted(set(waiting.values())))
        finally:
            if _alive():
                for reference in waiting:
                    ray.cancel(reference)
            else:  # the next Step starts Ray anew
                self.close()

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        if self.task is not None:
            ray.shutdown()
            self.task = None

    def start(self, threads: int) -> None:
        """Connect, or start Ray here, unless that is done. Raises KdlibError where no node has `threads` CPUs."""
        if self.task is None:
            if ray.is_initialized():
                raise KdlibError("Ray is in use in this process already, by a ray.init() that is not kdlib's; allowed: "
                                 "ray.shutdown() before this")
            folder = os.environ.get("RAY_TMPDIR", os.environ.get("TMPDIR", "/tmp"))  # as Ray has it
            if not self.address and len(os.fsencode(folder)) > LONGEST_FOLDER:
                raise KdlibError(f"Ray's sockets have no room in {folder}; allowed: a RAY_TMPDIR, or TMPDIR, of "
                                 f"{LONGEST_FOLDER} bytes at most, such as /tmp")
            cores = self.workers * threads if self.workers else os.cpu_count() or 1
            if self.address not in (None, "auto"):
                _knock(self.address)
            alone: dict[str, Any] = {} if self.address else {
                "num_cpus": max(cores, threads), "object_store_memory": OBJECT_STORE, "include_dashboard": False,
                "_node_ip_address": "127.0.0.1", "_system_config": {"preload_python_modules": PRELOADED}}
            try:
                with contextlib.nullcontext() if self.address else _on_loopback():
                    ray.init(self.address or "local", log_to_driver=False, logging_level=logging.ERROR, **alone)
            except Exception as error:  # Ray raises bare ones, such as after 30 seconds on a machine that is too busy
                ray.shutdown()
                if self.address:
                    raise KdlibError(f"no Ray cluster at {self.address}: {error}; {ALLOWED}") from error
                raise KdlibError(f"Ray did not start here: {_why(error)}") from error
            self.task = ray.remote(carry_out)
        _find_room(threads)


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Inside, Ray takes 127.0.0.1 for this machine's address, where it would put that of the network in its place."""
    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _why(error: Exception) -> str:
    """Why Ray did not start, and what helps."""
    said = " ".join(str(error).split())
    if isinstance(error, OSError) and not isinstance(error, TimeoutError | ConnectionError):
        return f"{said}; allowed: a HOME for Ray's token, and a RAY_TMPDIR, or TMPDIR, in which this user can write"
    if isinstance(error, ValueError):
        return f"{said}; the same command fails again until that is mended"
    return f"{said}; a busy machine may be the cause; the same command tries again"


def _alive() -> set[str]:
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def _find_room(threads: int) -> None:
    cores = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    if not cores:
        raise KdlibError(ENDED)
    if threads > max(cores):
        raise KdlibError(f"no node of the Ray cluster has {threads} CPUs, as the experiment's threads ask for; "
                         "allowed: fewer threads, or a larger node")


def _knock(address: str) -> None:
    """Ray by itself tries an address for minutes, and then ends the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError, OverflowError) as error:
        raise KdlibError(f"no Ray cluster at {address}: {error}; {ALLOWED}") from error


def _record(reference: Any, step: Step) -> Record:
    try:
        return answered(*ray.get(reference))
    except RayTaskError as error:
        raise error.cause from None
    except (WorkerCrashedError, NodeDiedError) as error:
        raise KdlibError(f"{step.name} of {step.subject} in round {step.round} lost its worker {RETRIES + 1} times; "
                         "is there memory for it? The same command goes on from here") from error
    except RayError as error:  # such as LocalRayletDiedError
        raise KdlibError(f"{ENDED} ({type(error).__name__})") from error
