"""Steps side by side in processes of this machine: a pool that is forked from one process with all libraries loaded."""

import contextlib
import logging
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from kdlib.errors import KdlibError
from kdlib.invoke.invokers import Base
from kdlib.invoke.perform import Perform, perform
from kdlib.invoke.steps import Record, Step
from kdlib.invoke.worker import PRELOADED, answered, carry_out, errand, largest_first
from kdlib.machine import cores, free_memory
from kdlib.settings.experiment import Experiment
from kdlib.store.store import Store

RETRIES = 5  # of a Stage whose workers end without a word, one after another
OF_A_WORKER = 2**30  # bytes, roughly: PyTorch and Lightning take half, the rest is a client's data and model

log = logging.getLogger("kdlib")


class Processes(Base):
    """A Stage's Steps in `workers` processes, those of the largest models first.

    workers: at a time; default: as many as the cores leave room for by the experiment's threads, and the free memory.
    A Step whose process is lost is carried out again; what an unfinished one wrote is written over. The processes end
    with this one, however it ends.
    """

    name = "processes"

    def __init__(self, workers: int | None = None, perform: Perform = perform) -> None:
        self.workers, self.perform = workers, perform
        self._pool: ProcessPoolExecutor | None = None
        self._size = 0

    def run(self, key: str, experiment: Experiment, store: Store, steps: list[Step]) -> Iterator[Record]:
        """See Invoker.run. Raises KdlibError where processes are lost too often."""
        if "memory" in store.fs.protocol:
            raise KdlibError(f"processes cannot reach {store.url}; allowed: a folder or an object store")
        sent, lost = errand(key, experiment, store), 0
        left = [steps[number] for number in largest_first(experiment, steps)]
        while left:
            pool = self._ready(self.workers or room(experiment))
            waiting: dict[Future[tuple[str, float]], Step] = {}
            try:
                with _main_is_not_run_again():
                    for step in left:
                        waiting[pool.submit(carry_out, self.perform, sent, step, self.name)] = step
                for done in _as_completed(set(waiting)):
                    record = answered(*done.result())
                    left.remove(waiting.pop(done))
                    yield record
            except BrokenProcessPool as error:
                self.close()
                if (lost := lost + 1) > RETRIES:
                    raise KdlibError(f"{left[0].name} of round {left[0].round} lost its processes {lost} times; is "
                                     "there memory? Fewer --workers need less; the same command goes on") from error
                log.warning("kdlib: a process ended without a word; what was out is carried out again")
            finally:
                for future in waiting:
                    future.cancel()

    def close(self) -> None:
        """End the processes, whatever they are at."""
        if self._pool is not None:
            pool, self._pool = self._pool, None
            processes = list((pool._processes or {}).values())
            pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.kill()
            for process in processes:
                process.join()

    def _ready(self, size: int) -> ProcessPoolExecutor:
        if self._pool is None or self._size != size:
            self.close()
            context = start_early()
            self._pool, self._size = ProcessPoolExecutor(size, mp_context=context, initializer=_obey), size
        return self._pool


def room(experiment: Experiment) -> int:
    """How many Steps this machine takes at a time, by its cores and its free memory."""
    return max(1, min(cores() // experiment.threads, free_memory() // OF_A_WORKER))


def start_early() -> multiprocessing.context.BaseContext:
    """Have the process that others are forked from load its libraries, in the background.

    Where none can be forked, each will load its own.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with _main_is_not_run_again():
        multiprocessing.forkserver.ensure_running()
    return context


def _obey() -> None:
    """In a new process: interrupts are the driver's business, and without the driver there is nothing to do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def end_with_it() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=end_with_it, daemon=True).start()


def _as_completed(waiting: set[Future[tuple[str, float]]]) -> Iterator[Future[tuple[str, float]]]:
    while waiting:
        done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
        yield from done


@contextlib.contextmanager
def _main_is_not_run_again() -> Iterator[None]:
    """A new process would begin with the user's own script; kdlib's Steps need nothing of it."""
    main = sys.modules["__main__"]
    hidden = {name: getattr(main, name) for name in ("__file__", "__spec__") if hasattr(main, name)}
    for name in hidden:
        setattr(main, name, None)
    try:
        yield
    finally:
        for name, value in hidden.items():
            setattr(main, name, value)
