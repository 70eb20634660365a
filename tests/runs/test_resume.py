"""kill -9 at any moment, the same command again: the same final bytes."""

import json
import os
import signal
import time

import pytest

import forked


def start(strategy, folder):
    settings = ("--profile", "smoke", "--strategy", strategy, "--alpha", "0.5")
    return forked.start("kdlib", "run", *settings, "--runs", folder, cwd=folder.parent)


def ended(process):
    process.join(300)
    return process.exitcode


def lines(folder):
    return sum(file.read_bytes().count(b"\n") for file in folder.glob("*/records/*.jsonl"))


@pytest.mark.parametrize("strategy", ["fedmd", "feddf"])
def test_killed_three_times_it_ends_with_the_same_bytes(strategy, common, tmp_path):
    whole = common(strategy, 0.5)
    steps = len(whole.table)

    torn = tmp_path / "torn"
    for share in (0.05, 0.4, 0.8):
        process = start(strategy, torn)
        while lines(torn) < share * steps:
            assert process.is_alive(), "the run ended before it could be killed"
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        assert ended(process) == -signal.SIGKILL
        assert not list(torn.glob("*/result.json"))
        with next(torn.glob("*/records/*.jsonl")).open("a") as file:
            file.write('{"run": "torn in the midd')
    resumed = start(strategy, torn)
    assert ended(resumed) == 0
    assert json.loads(next(torn.glob("*/result.json")).read_text())["final_bytes"] == whole.result["final_bytes"]
    assert lines(torn) == steps, "no Step was recorded twice"
