"""Runs that are killed, and go on in a folder in which somebody else wrote: by every invoker without functions.

Each ends with the undisturbed bytes, or in one clear line, and then with those bytes once the folder is as it was.
"""

import contextlib
import json
import os
import random
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hostile import PLANTED, clear
from test_faults import COUNT, EXPERIMENTS, SEED

from functions import ROOT
from kdlib.data import sets
from kdlib.runs.run import load

LINE = re.compile(r"\w+: .{20,700}$")
SPOILT = {
    "truncated": lambda content: content[: len(content) // 2],
    "of junk": lambda content: bytes(range(256)) * 9,
    "empty": lambda content: b"",
    "with a byte changed": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "too deep": lambda content: b"[" * 100_000,
    "gone": None,
}
KINDS = (*SPOILT, *PLANTED)
SHARE = {"inline": 8, "processes": 8, "ray": 50}  # of KDLIB_FAULTS, one in so many
PATIENCE = 120.0  # seconds in which a driving process must end


class Driver:
    """A host of driving processes, one at a time."""

    def __init__(self, folder):
        self.log = folder / "driver.log"
        self.host = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("host.py"))], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})

    def start(self, experiment, runs, invoker):
        self.log.unlink(missing_ok=True)
        self.host.stdin.write(json.dumps({
            "drive": experiment.model_dump_json(), "runs": str(runs), "patience": None, "timeout": 60,
            "endpoints": None, "invoker": invoker, "environment": {}, "log": str(self.log)}) + "\n")
        self.host.stdin.flush()
        return json.loads(self.host.stdout.readline())["pid"]

    def end(self):
        """Its exit status; TimeoutError where it does not end."""
        if not select.select([self.host.stdout], [], [], PATIENCE)[0]:
            raise TimeoutError("the driving process hangs")
        return json.loads(self.host.stdout.readline())["status"]

    def run(self, experiment, runs, invoker):
        """Its exit status."""
        self.start(experiment, runs, invoker)
        return self.end()


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    driver = Driver(tmp_path_factory.mktemp("restarts"))
    yield driver
    driver.host.stdin.close()
    driver.host.wait()


@pytest.fixture(scope="module")
def undisturbed(driver, tmp_path_factory):
    """strategy -> the final bytes of a run in one process, and how many Records it has."""
    found = {}
    for strategy, experiment in EXPERIMENTS.items():
        runs = tmp_path_factory.mktemp("undisturbed")
        assert driver.run(experiment, runs, "inline") == 0
        the_run = load(folder_of(experiment, runs))
        found[strategy] = the_run.result["final_bytes"], len(the_run.records())
    return found


def folder_of(experiment, runs):
    return runs / experiment.key(sets.prepare(experiment).hashes)


@pytest.mark.parametrize("invoker", SHARE)
def test_a_run_goes_on_after_a_kill_in_a_folder_that_somebody_else_wrote_in(invoker, driver, undisturbed, tmp_path):
    rng = random.Random(f"{SEED}/{invoker}")
    struck, refused = 0, 0
    while struck < max(2, COUNT // SHARE[invoker]):
        strategy = rng.choice(sorted(EXPERIMENTS))
        experiment, runs = EXPERIMENTS[strategy], tmp_path / str(struck)
        folder, (final, records) = folder_of(experiment, runs), undisturbed[strategy]
        kill_after(rng.randrange(records), driver, experiment, runs, invoker)
        kind, path = rng.choice(KINDS), rng.choice(files(folder))
        context = f"seed {SEED}, fault {struck}, {strategy}: {path.relative_to(runs)} {kind}"
        content = path.read_bytes()
        spoil(kind, path, content)
        struck += 1
        status = driver.run(experiment, runs, invoker)
        said = driver.log.read_text()
        assert status in (0, 2) and "Traceback" not in said, (context, status, said[-2000:])
        if status == 2:
            refused += 1
            assert LINE.match(said.splitlines()[-1]), (context, said[-2000:])
            clear(path)
            path.write_bytes(content)
            assert driver.run(experiment, runs, invoker) == 0, (context, driver.log.read_text()[-2000:])
        assert load(folder).result["final_bytes"] == final, context
    print(f"\n{struck} folders spoilt by somebody else while a run by {invoker} was dead, {refused} refused")


def kill_after(number, driver, experiment, runs, invoker):
    """Start it, and kill it once it has so many Records."""
    pid = driver.start(experiment, runs, invoker)
    records = folder_of(experiment, runs) / "records"
    begun = time.monotonic()
    while (time.monotonic() - begun < PATIENCE and
           sum(path.read_bytes().count(b"\n") for path in records.glob("*")) < number):
        time.sleep(0.002)
    with contextlib.suppress(ProcessLookupError):  # it was faster
        os.kill(pid, signal.SIGKILL)
    driver.end()


def files(folder):
    """All that lies in the run's folder and has something in it."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size
                  and path.suffix not in (".lock", ".part"))


def spoil(kind, path, content):
    clear(path)
    if kind in PLANTED:
        PLANTED[kind](path)
    elif SPOILT[kind]:
        path.write_bytes(SPOILT[kind](content))
