"""kill -9 at any moment, the same command again: the same final bytes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

KDLIB = Path(sys.executable).with_name("kdlib")


def start(strategy, folder):
    command = [KDLIB, "run", "--profile", "smoke", "--strategy", strategy, "--alpha", "0.5", "--runs", folder]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def lines(folder):
    return sum(file.read_bytes().count(b"\n") for file in folder.glob("*/records/*.jsonl"))


@pytest.mark.parametrize("strategy", ["fedmd", "feddf"])
def test_killed_three_times_it_ends_with_the_same_bytes(strategy, tmp_path):
    whole = start(strategy, tmp_path / "whole")
    assert whole.wait(timeout=300) == 0
    result = json.loads(next((tmp_path / "whole").glob("*/result.json")).read_text())
    steps = lines(tmp_path / "whole")

    torn = tmp_path / "torn"
    for share in (0.05, 0.4, 0.8):
        process = start(strategy, torn)
        while lines(torn) < share * steps:
            assert process.poll() is None, "the run ended before it could be killed"
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert not list(torn.glob("*/result.json"))
        with next(torn.glob("*/records/*.jsonl")).open("a") as file:
            file.write('{"run": "torn in the midd')
    resumed = start(strategy, torn)
    assert resumed.wait(timeout=300) == 0
    assert json.loads(next(torn.glob("*/result.json")).read_text())["final_bytes"] == result["final_bytes"]
    assert lines(torn) == steps, "no Step was recorded twice"
