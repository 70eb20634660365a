"""Runs by processes under kills, counted and repeatable by seed: each ends with the bytes of one that nobody disturbed.

KDLIB_KILLS says how many (4), KDLIB_KILL_SEED which.
"""

import contextlib
import json
import os
import random
import signal
from collections import Counter

import psutil

import forked
from kdlib.invoke.invokers import Inline
from kdlib.runs import runner
from kdlib.settings.experiment import make_experiment

COUNT = int(os.environ.get("KDLIB_KILLS", "4"))
SEED = int(os.environ.get("KDLIB_KILL_SEED", "0"))
KINDS = ("worker", "driver", "interrupt", "forkserver")
LONGEST = 5.0  # seconds between two kills at most: loading takes some, then Steps go side by side
SETTINGS = {"rounds": 40, "samples": 40, "architectures": ["cnn2-8-8", "cnn3-8-8-8"], "clients": 4,
            "clients_per_round": 4}
COMMAND = ["run", "--task", "digits", "--strategy", "feddf", "--alpha", "1", "--profile", "smoke", "--workers", "2",
           *(word for name, value in SETTINGS.items() for word in ("--set", f"{name}={json.dumps(value)}"))]


def test_whatever_is_killed_the_run_ends_with_the_same_bytes(tmp_path):
    undisturbed = runner.run(make_experiment("digits", "feddf", 1.0, profile="smoke", **SETTINGS), tmp_path / "inline",
                             progress=False, invoker=Inline())
    rng, struck, runs = random.Random(SEED), Counter(), 0
    while struck.total() < COUNT:
        runs += 1
        place = tmp_path / str(runs)
        place.mkdir()
        while not session(place, rng, struck):
            pass
        (result,) = place.glob("runs/*/result.json")
        said = json.loads(result.read_text())
        assert said["final_bytes"] == undisturbed.result["final_bytes"], f"seed {SEED}, run {runs}: {dict(struck)}"
        (records,) = place.glob("runs/*/records/*")
        assert records.name == "processes-1.jsonl"
        done = [tuple(json.loads(line)[name] for name in ("round", "step", "subject"))
                for line in records.read_text().splitlines()]
        assert len(done) == len(set(done)) == len(undisturbed.steps)
    print(f"\n{struck.total()} kills in {runs} runs: {dict(struck)}")


def session(place, rng, struck):
    """One process that drives the run, until the run is complete (True) or the process was ended (False)."""
    files = [os.devnull, place / f"out-{struck.total()}", place / f"err-{struck.total()}"]
    driver = forked.start("kdlib", *COMMAND, cwd=place, files=files)
    while True:
        kind = min(KINDS, key=lambda each: (struck[each], rng.random()))
        driver.join(rng.uniform(0.1, LONGEST))
        while kind == "worker" and driver.exitcode is None and not below(driver.pid)["worker"]:
            driver.join(rng.uniform(0.1, 0.5))
        if driver.exitcode is not None or struck.total() >= COUNT:
            driver.join(240)
            assert driver.exitcode == 0, files[2].read_text()
            return True
        there = below(driver.pid)
        if kind in there:
            for one in there[kind][:1]:
                one.kill()
                struck[kind] += 1
            continue
        os.killpg(driver.pid, signal.SIGINT) if kind == "interrupt" else driver.kill()
        driver.join(60)
        struck[kind] += 1
        _, alive = psutil.wait_procs([one for each in there.values() for one in each], timeout=30)
        assert alive == [], "nobody is left behind"
        if kind == "interrupt" and driver.exitcode != 0:  # it may just have been at its end
            said = files[2].read_text()
            assert driver.exitcode == 130 and "Traceback" not in said, said
            assert said.splitlines()[-1] == "kdlib: interrupted; the same command goes on from here", said
        return driver.exitcode == 0


def below(driver):
    """The processes below the driver's, by what they are; the newest worker first."""
    found = {"worker": [], "forkserver": [], "tracker": []}
    with contextlib.suppress(psutil.NoSuchProcess):
        children = psutil.Process(driver).children()
        for child in children:
            words = " ".join(child.cmdline()) if child.status() != psutil.STATUS_ZOMBIE else ""
            kind = "forkserver" if "forkserver" in words else "tracker"
            found[kind].append(child)
            found["worker"] += child.children()
    found["worker"].reverse()
    return found
