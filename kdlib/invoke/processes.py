"""Steps side by side in processes of this machine: a pool that is forked from one process with all libraries loaded."""

import logging
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

from kdlib.errors import KdlibError
from kdlib.invoke import forkserver
from kdlib.invoke.choice import room
from kdlib.invoke.invokers import Base
from kdlib.invoke.perform import Perform, measured, perform
from kdlib.invoke.steps import Record, Step
from kdlib.invoke.worker import Errand, answered, carry_out, errand
from kdlib.settings.experiment import Experiment
from kdlib.store.store import Store

RETRIES = 5  # of a Stage whose workers end without a word, one after another

log = logging.getLogger("kdlib")

_Sent = dict[Future[tuple[str, float]], Step]


class Processes(Base):
    """A Stage's Steps in `workers` processes, those first that took longest before.

    workers: at a time; default: as many as the cores leave room for by the experiment's threads, and the free memory.
    A Step whose process is lost is carried out again; what an unfinished one wrote is written over. The processes end
    with this one, however it ends.

    The libraries take seconds to load. Until they are, this process carries out one Step after another itself, from
    the end, and a thread sends what is left as soon as somebody can take it. On two cores a run of seven seconds still
    took about one more than inline: the loading, and each worker's first Step, come beside it.
    """

    name = "processes"

    def __init__(self, workers: int | None = None, perform: Perform = perform) -> None:
        self.workers, self.perform = workers, perform
        self._pool: ProcessPoolExecutor | None = None
        self._size = 0
        self._took: dict[tuple[str, str], float] = {}  # seconds of each kind's last one; to count work takes longer

    def run(self, key: str, experiment: Experiment, store: Store, steps: list[Step]) -> Iterator[Record]:
        """See Invoker.run. Raises KdlibError where processes are lost too often."""
        if "memory" in store.fs.protocol:
            raise KdlibError(f"processes cannot reach {store.url}; allowed: a folder or an object store")
        models = {*experiment.client_names, *experiment.architectures}

        def kind(step: Step) -> tuple[str, str]:
            return step.name, experiment.architecture_of(step.subject) if step.subject in models else ""

        sent, size, left, lost = errand(key, experiment, store), self.workers or room(experiment), list(steps), 0
        while left:
            forkserver.start()
            left.sort(key=lambda step: -self._took.get(kind(step), 0.0))
            unsent, out, over = deque(left), _Sent(), threading.Event()
            sender = ThreadPoolExecutor(1)  # of the user's own process
            sending = sender.submit(self._send, sent, size, unsent, out, over)
            try:
                while not forkserver.ready() and (step := _taken(unsent.pop)):
                    record = measured(self.perform, key, experiment, store, step, self.name)
                    self._took[kind(step)] = record.seconds
                    yield record
                    left.remove(step)
                over.set()  # none is left to be sent, or the thread sends it now
                sending.result()
                for done in as_completed(list(out)):
                    record = answered(*done.result())
                    left.remove(step := out.pop(done))
                    self._took[kind(step)] = record.seconds
                    yield record
            except BrokenProcessPool as error:
                self.close()
                if (lost := lost + 1) > RETRIES:
                    raise KdlibError(f"{left[0].name} of round {left[0].round} lost its processes {lost} times; is "
                                     "there memory? Fewer --workers need less; the same command goes on") from error
                log.warning("kdlib: a process ended without a word; what was out is carried out again")
            finally:
                over.set()
                sender.shutdown()
                for future in out:
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

    def _send(self, sent: Errand, size: int, unsent: deque[Step], out: _Sent, over: threading.Event) -> None:
        """In a thread: as soon as there are processes, give them all that nobody has begun."""
        if not forkserver.wait(over):
            return
        if self._pool is None or self._size != size:
            self.close()
            self._pool = ProcessPoolExecutor(size, forkserver.start(), _obey, (dict(os.environ),))
            self._size = size
        with forkserver.main_is_not_run_again():
            try:
                while step := _taken(unsent.popleft):
                    out[self._pool.submit(carry_out, self.perform, sent, step, self.name)] = step
            except (EOFError, OSError) as error:  # who forks them was lost just now
                raise BrokenProcessPool(str(error)) from error


def _obey(environment: dict[str, str]) -> None:
    """In a new process: interrupts are the driver's business, its environment counts, without it nothing is to do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(environment)
    parent = multiprocessing.parent_process()

    def end_with_it() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=end_with_it, daemon=True).start()


def _taken(take: Callable[[], Step]) -> Step | None:
    """One of those that nobody has begun; None where there is no more. Two threads ask."""
    try:
        return take()
    except IndexError:
        return None
