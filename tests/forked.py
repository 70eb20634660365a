"""The command lines as processes that need not start from nothing: forked from one that has imported the libraries.

Each is a process as a user's is, with its own folder, environment, output and exit status, without the five seconds
of imports before the first line of ours. What those are is for test_imports, test_readme, test_setup and the first
test of test_cli, which start the console script itself.
"""

import importlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

PROGRAMS = {"kdlib": "kdlib.cli.main", "faas": "faas.__main__", "faas.function.server": "faas.function.server"}
FORKING = multiprocessing.get_context("forkserver")
FORKING.set_forkserver_preload([
    "kdlib.runs.runner", "kdlib.runs.invokers", "kdlib.invoke.http", "kdlib.reports.estimate",
    "kdlib.paper.reproduction", "kdlib.paper.bench", "faas.function.lean", "faas.function.app", "faas.local.lifecycle",
    "faas.cluster.folder", "faas.cluster.kubectl", "uvicorn", "sklearn.datasets"])


def start(program, *arguments, cwd, environment=None, files=(os.devnull,) * 3):
    """Begin `program arguments`; a multiprocessing.Process, which leads a group of its own.

    files: its stdin, stdout and stderr.
    """
    process = FORKING.Process(target=_become, args=(program, [str(word) for word in arguments], str(cwd),
                                                    dict(environment or os.environ), [str(path) for path in files]))
    process.start()
    return process


def run(program, *arguments, cwd, environment=None, given="", timeout=300):
    """Like subprocess.run with text; given: what comes on stdin."""
    with tempfile.TemporaryDirectory() as place:
        stdin, *output = (Path(place) / name for name in ("stdin", "stdout", "stderr"))
        stdin.write_text(given)
        process = start(program, *arguments, cwd=cwd, environment=environment, files=(stdin, *output))
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired([program, *arguments], timeout)
        said = (path.read_text() for path in output)
        return subprocess.CompletedProcess([program, *arguments], process.exitcode, *said)


def _become(program, arguments, cwd, environment, files):
    """In the new process."""
    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    for number, path in enumerate(files):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND if number else os.O_RDONLY, 0o600), number)
    sys.argv = [program, *arguments]
    module = importlib.import_module(PROGRAMS[program])
    if program == "faas":
        module.main(module.app, program)
    else:
        module.main()
