"""A platform for functions and driving processes that are killed all the time: each is a process, forked in no time.

`python host.py` imports once what they need, and takes one JSON object a line on standard input:

    {"function": NAME, "environment": {...}, "orders": FILE, "log": FILE}  serve it, and again whenever it dies
    {"drive": EXPERIMENT, "runs": FOLDER, "endpoints": FILE, or null, "invoker": NAME without one, "timeout": SECONDS,
     "patience": [DEADLINE, SHARE], or null, "environment": {...}, "log": FILE}        carry a run out, once

It says, one JSON object a line, {"name": NAME or "driver", "pid": N} at each start and {..., "status": N} at each end.
"""

import contextlib
import functools
import json
import os
import select
import signal
import sys
import traceback
from pathlib import Path

import sklearn.datasets  # noqa: F401  as everything here, so that a fork need not import it

import faas.function.server
from faas.function import app, lean  # noqa: F401
from kdlib.data import sets
from kdlib.errors import KdlibError
from kdlib.invoke.http import Http
from kdlib.learning import training  # noqa: F401
from kdlib.registry import NETWORKS, STRATEGIES
from kdlib.runs import runner
from kdlib.runs.driver import Patience
from kdlib.runs.invokers import make_invoker
from kdlib.settings.experiment import from_json
from kdlib.store import s3  # noqa: F401
from kdlib.store.store import Store

sets.load = functools.cache(sets.load)
for registry in (STRATEGIES, NETWORKS):
    registry.names()  # which imports kdlib's own


def serve(wanted):
    """The function, in this process."""
    obey(Path(wanted["orders"]))
    sys.argv = ["faas.function.server"]
    faas.function.server.main()


def drive(wanted):
    """The run, in this process; an exit status of 2 and a line in the log where it fails with one."""
    patience = wanted["patience"] and Patience(*wanted["patience"])
    timeouts = dict.fromkeys(("pretrain", "transfer", "communicate", "aggregate", "digest", "revisit", "evaluate",
                              "train", "teach", "distil"), wanted["timeout"])
    try:
        if not wanted["endpoints"]:
            with make_invoker(wanted["invoker"]) as means:
                runner.run(from_json(wanted["drive"]), wanted["runs"], False, means)
            return
        with contextlib.closing(Http.from_file(wanted["endpoints"], timeouts=timeouts, tries=20)) as http:
            runner.run(from_json(wanted["drive"]), wanted["runs"], False, http, patience=patience)
    except (KdlibError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)


def obey(orders: Path):
    """This process kills itself where the file says: before, during or after a write, or after that of the Record."""
    write = Store._write

    def ordered(point):
        return orders.exists() and orders.read_text() == point

    def die_if(due):
        if due:
            orders.unlink()
            os.kill(os.getpid(), signal.SIGKILL)

    def dangerous(store, name, suffix, content, new=False):
        die_if(not new and ordered("before"))
        if not new and ordered("during") and "file" in store.fs.protocol:
            pipe = store.fs.pipe_file
            store.fs.pipe_file = lambda path, content: (pipe(path, content[: len(content) // 2]), die_if(True))
        write(store, name, suffix, content, new)
        die_if(ordered("recorded") if new else ordered("after"))

    Store._write = dangerous


def start(wanted, act) -> int:
    """Fork a process that does `act`, and ends."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.environ.update(wanted["environment"])
        nothing, log = os.open(os.devnull, os.O_RDWR), os.open(wanted["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for number, file in enumerate((nothing, nothing, log)):
            os.dup2(file, number)
        act(wanted)
        status = 0
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def main():
    """See the module; ends, with all that it started, when standard input does."""
    running = {}
    commands = os.fdopen(os.dup(0), "rb", buffering=0)

    def begin(name, wanted):
        pid = start(wanted, drive if name == "driver" else serve)
        running[pid] = (name, wanted)
        print(json.dumps({"name": name, "pid": pid}), flush=True)

    while True:
        if select.select([commands], [], [], 0.005)[0]:
            line = commands.readline()
            if not line:
                break
            wanted = json.loads(line)
            begin(wanted.get("function", "driver"), wanted)
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                name, wanted = running.pop(ended[0])
                print(json.dumps({"name": name, "status": os.waitstatus_to_exitcode(ended[1])}), flush=True)
                if name != "driver":
                    begin(name, wanted)
    for pid in running:
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
