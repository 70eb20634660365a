"""The process that others are forked from, with all libraries loaded: begun early, as loading takes seconds.

Without torch itself, so that it can be begun before that is loaded here.
"""
# mypy: disable-error-code="attr-defined"

import contextlib
import multiprocessing
import multiprocessing.context
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import multiprocessing.spawn
import multiprocessing.util
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

from kdlib.errors import KdlibError

PRELOADED = ["kdlib.invoke.preload"]  # what a worker imports while it is still starting
READY = "KDLIB_PRELOADED"  # where the preloaded modules make a file at their end

TRIES = 5  # of a server that is lost, one after another; without any, Steps go on where they are

_begun: list[int] = []
_parents: list[int] = []
_one_at_a_time = threading.Lock()


def there() -> bool:
    """Whether this system has any: Linux and macOS do."""
    return "forkserver" in multiprocessing.get_all_start_methods()


def inherited() -> bool:
    """Whether it is that of a process which this one was forked from: that alone can use it."""
    return bool(_parents)


def start() -> multiprocessing.context.BaseContext:
    """Have it load the libraries, in the background; nothing where it does already; a new one where it was lost.

    One that the user's own code has begun serves too: each process then loads its own. Raises KdlibError where there
    is none for this process.
    """
    if not there() or inherited():
        raise KdlibError("no process can be forked from here; allowed: --invoker inline, or ray")
    context, server = multiprocessing.get_context("forkserver"), multiprocessing.forkserver._forkserver
    before = server._forkserver_pid
    if before is None:
        context.set_forkserver_preload([*server._preload_modules, *PRELOADED])
    elif not _begun:
        _sign().touch()
    if (before is None or _begun) and len(_begun) <= TRIES:
        multiprocessing.resource_tracker.ensure_running()  # first: it would let interrupts through again
        with _interrupts_stay_here():
            os.environ[READY] = str(_sign())
            try:
                multiprocessing.forkserver.ensure_running()
            finally:
                del os.environ[READY]
        if server._forkserver_pid != before:
            _sign().unlink(missing_ok=True)  # of one that was lost
            _begun.append(server._forkserver_pid)
            multiprocessing.util.Finalize(None, end, exitpriority=0)  # at the end of a child of multiprocessing, too
    return context


def ready() -> bool:
    """Whether a process can be forked at once, its libraries loaded."""
    return _sign().exists()


def wait(over: threading.Event) -> bool:
    """Wait until it is ready, or until `over`; returns whether it is."""
    while not ready() and not over.wait(0.02):
        pass
    return ready()


def end() -> None:
    """Where it is still loading, nobody needs it any more: whoever waits for this process's output waits for it too."""
    if _begun and not inherited() and not ready():
        with contextlib.suppress(ProcessLookupError):
            os.kill(_begun[-1], signal.SIGKILL)


def _of_parent() -> None:
    """In a child that was forked directly."""
    if (server := multiprocessing.forkserver._forkserver._forkserver_pid) is not None:
        _parents.append(server)


os.register_at_fork(after_in_child=_of_parent)


def _sign() -> Path:
    return Path(multiprocessing.util.get_temp_dir()) / f"kdlib-{os.getpid()}-is-loaded"


@contextlib.contextmanager
def _interrupts_stay_here() -> Iterator[None]:
    """A process that begins inside never hears of an interrupt: that is the driver's business."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def main_is_not_run_again() -> Iterator[None]:
    """A process that this thread starts would begin with the user's own script; kdlib's Steps need nothing of it.

    `__main__` itself stays as it is, since other threads look at it.
    """
    with _one_at_a_time:
        plain, mine = multiprocessing.spawn.get_preparation_data, threading.get_ident()

        def without_main(name: str) -> dict[str, object]:
            ours = threading.get_ident() == mine
            return {key: value for key, value in plain(name).items() if not (ours and key.startswith("init_main_from"))}

        multiprocessing.spawn.get_preparation_data = without_main
        try:
            yield
        finally:
            multiprocessing.spawn.get_preparation_data = plain
