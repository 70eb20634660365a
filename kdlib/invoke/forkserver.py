"""The process that others are forked from, with all libraries loaded: begun early, as loading takes seconds.

Without torch itself, so that it can be begun before that is loaded here.
"""
# mypy: disable-error-code="attr-defined"

import atexit
import contextlib
import multiprocessing
import multiprocessing.context
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import multiprocessing.util
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from kdlib.errors import KdlibError

PRELOADED = ["kdlib.invoke.preload"]  # what a worker imports while it is still starting
READY = "KDLIB_PRELOADED"  # where the preloaded modules make a file at their end

_begun: list[bool] = []
_one_at_a_time = threading.Lock()


def there() -> bool:
    """Whether this system has any: Linux and macOS do."""
    return "forkserver" in multiprocessing.get_all_start_methods()


def start() -> multiprocessing.context.BaseContext:
    """Have it load the libraries, in the background; nothing where it does already.

    One that the user's own code has begun serves too: each process then loads its own. Raises KdlibError
    where the system has none.
    """
    if not there():
        raise KdlibError("no process can be forked on this system; allowed: --invoker inline, or ray")
    context, server = multiprocessing.get_context("forkserver"), multiprocessing.forkserver._forkserver
    if server._forkserver_pid is not None:
        if not _begun:
            _sign().touch()
        return context
    _begun.append(True)
    context.set_forkserver_preload([*server._preload_modules, *PRELOADED])
    multiprocessing.resource_tracker.ensure_running()  # first: it would let interrupts through again
    with main_is_not_run_again(), _interrupts_stay_here():
        os.environ[READY] = str(_sign())
        try:
            multiprocessing.forkserver.ensure_running()
        finally:
            del os.environ[READY]
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
    server = multiprocessing.forkserver._forkserver
    if _begun and server._forkserver_pid is not None and not ready():
        with contextlib.suppress(ProcessLookupError):
            os.kill(server._forkserver_pid, signal.SIGKILL)


atexit.register(end)


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
    """A new process would begin with the user's own script; kdlib's Steps need nothing of it."""
    with _one_at_a_time:
        main = sys.modules["__main__"]
        hidden = {name: getattr(main, name) for name in ("__file__", "__spec__") if hasattr(main, name)}
        for name in hidden:
            setattr(main, name, None)
        try:
            yield
        finally:
            for name, value in hidden.items():
                setattr(main, name, value)
