"""The command line as a user meets it: a process, its output, its exit status."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import forked

KDLIB = Path(sys.executable).with_name("kdlib")
ROOT = Path(__file__).parents[2]
SMALL = ("--task", "digits", "--profile", "smoke", "--set", "rounds=1")


def kdlib(*arguments, cwd, **environment):
    """Runs `kdlib ...`; returns the finished process."""
    return forked.run("kdlib", *arguments, cwd=cwd, environment=os.environ | environment)


def refused(process, *words):
    """Exactly one line on stderr, all the words in it, exit status 2, nothing of a traceback."""
    lines = process.stderr.strip().splitlines()
    assert process.returncode == 2, process.stderr
    assert len(lines) == 1 and lines[0].startswith("kdlib: "), process.stderr
    assert all(word in lines[0] for word in words), lines[0]
    assert "Traceback" not in process.stdout


@pytest.mark.parametrize(("arguments", "words"), [
    (["--strategy", "fedmdd"], ["fedmdd", "did you mean fedmd", "feddf"]),
    (["--strategy", "fedmd", "--alpha", "-1"], ["alpha", "greater than 0", "-1"]),
    (["--strategy", "fedmd", "--set", "cleints=3"], ["cleints", "did you mean clients"]),
    (["--strategy", "fedmd", "--set", "clients"], ["--set clients", "NAME=VALUE"]),
    (["--strategy", "fedmd", "--set", "clients=many"], ["clients", "integer", "many"]),
    (["--strategy", "fedmd", "--set", "kl=reverse"], ["kl", "fedmd", "transfer"]),
    (["--strategy", "feddf", "--set", "clients_per_round=2"], ["clients_per_round", "2", "allowed"]),
    (["--strategy", "feddf", "--set", "selection=fastest"], ["selection", "behaviour", "fastest"]),
    (["--strategy", "feddf", "--set", 'slow={"share":2,"factor":5}'], ["slow.share", "1", "2"]),
    (["--strategy", "fedmd", "--profile", "desktop"], ["desktop", "paper, narrow, laptop, smoke"]),
    (["--strategy", "fedmd", "--task", "mnits"], ["mnits", "digits, mnist", ".toml"]),
    (["--strategy", "fedmd", "--task", "absent.toml"], ["absent.toml", "No such file"]),
    (["--strategy", "fedmd", "--seed", "x"], ["--seed", "integer"]),
    (["--strategy", "fedmd", "--task", "shakespeare", "--alpha", "1"], ["shakespeare has no alpha", "owners"]),
    (["--strategy", "fedmd", "--task", "cifar:fedmx"], ["cifar:fedmx", "alone, fedavg, feddf, fedmd"]),
    (["--strategy", "fedmd", "--set", "clients=100000"], ["clients", "10000"]),
    (["--strategy", "fedmd", "--set", 'architectures=["resnet9"]'], ["resnet9", "resnet20", "package.module:NAME"]),
    (["--strategy", "fedmd", "--set", "optimizer=adagrad"], ["optimizer", "'adam', 'rmsprop' or 'sgd'", "adagrad"]),
    (["--strategy", "absent:STRATEGY"], ["absent", "ModuleNotFoundError"]),
    (["--strategy", "json:dumps"], ["json:dumps is no strategy", "a kdlib.Strategy"]),
    (["--strategy", "alone", "--plugin", "absent.py"], ["no plugin", "absent.py", "allowed"]),
    (["--strategy", "alone", "--invoker", "rai"], ["rai", "inline, processes, ray, http"]),
    (["--strategy", "alone", "--worker-steps", "rai"], ["unknown invoker 'rai'", "inline, processes, ray, http"]),
    ([], ["--strategy"]),
])
def test_a_mistake_is_one_line_and_leaves_nothing(arguments, words, tmp_path):
    refused(kdlib("run", *arguments, "--runs", tmp_path / "runs", cwd=tmp_path), *words)
    assert not (tmp_path / "runs").exists()


TASK = """
name = "own"
shape = [28, 28]
[private]
name = "{private}"
classes = {classes}
[public]
name = "letters"
classes = [0, 1]
"""


@pytest.fixture
def own(tmp_path):
    """A folder with a user's own task, own.toml, and its two data sets."""
    rng = np.random.default_rng(0)
    for name in ("marks", "letters"):
        y = np.arange(400) % 3
        x = (rng.integers(0, 80, (400, 28, 28)) + 60 * y[:, None, None]).astype(np.uint8)
        np.savez(tmp_path / f"{name}.npz", x_train=x, y_train=y, x_test=x[:60], y_test=y[:60])
    (tmp_path / "own.toml").write_text(TASK.format(private="marks", classes=[0, 1, 2]))
    return tmp_path


def test_own_task_runs(own):
    for strategy in ("fedmd", "feddf"):
        done = kdlib("run", *SMALL[2:], "--task", "own.toml", "--strategy", strategy, cwd=own, KDLIB_DATA=str(own))
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.splitlines()[-1])["rounds"] == 1


def test_own_texts_run(own_texts, tmp_path):
    for strategy in ("fedmd", "feddf"):
        done = kdlib("run", *SMALL[2:], "--task", own_texts / "own.toml", "--strategy", strategy, "--set", "width=0.05",
                     cwd=tmp_path, KDLIB_DATA=str(own_texts))
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.splitlines()[-1])["rounds"] == 1
    shown = kdlib("partition", "--task", own_texts / "own.toml", "--clients", "3", cwd=tmp_path,
                  KDLIB_DATA=str(own_texts))
    assert shown.stdout.count("PLAY_ROLE_") == 3 and "client-0002" in shown.stdout, shown.stderr


def test_a_class_that_the_data_lack(own):
    (own / "own.toml").write_text(TASK.format(private="marks", classes=[0, 1, 7]))
    process = kdlib("run", "--task", "own.toml", "--strategy", "fedmd", cwd=own, KDLIB_DATA=str(own))
    refused(process, "class 7", "[0, 1, 2]")
    assert not (own / "runs").exists()


def test_a_truncated_data_set(own):
    whole = (own / "marks.npz").read_bytes()
    (own / "marks.npz").write_bytes(whole[: len(whole) // 2])
    process = kdlib("run", "--task", "own.toml", "--strategy", "fedmd", cwd=own, KDLIB_DATA=str(own))
    refused(process, "marks.npz", "damaged")
    assert not (own / "runs").exists()


def test_missing_data_are_named_with_the_command_that_gets_them(tmp_path):
    process = kdlib("run", "--task", "mnist", "--strategy", "fedmd", cwd=tmp_path, KDLIB_DATA=str(tmp_path))
    refused(process, "mnist.npz", "emnist_letters.npz", "kdlib data fetch emnist_letters mnist", "KDLIB_DATA")


def test_a_run_ends_with_one_json_line_and_is_not_run_again(tmp_path):
    first = kdlib("run", *SMALL, "--strategy", "fedavg", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    result = json.loads(first.stdout.splitlines()[-1])
    assert set(result) == {"key", "folder", "accuracy", "per_architecture", "rounds", "seconds"}
    assert 0 <= result["accuracy"] <= 1 and len(result["per_architecture"]) == 3
    assert "100%" in first.stderr and "to go" in first.stderr, "the bar with its ETA"
    records = (tmp_path / result["folder"] / "records" / "inline-1.jsonl").read_bytes()

    second = kdlib("run", *SMALL, "--strategy", "fedavg", cwd=tmp_path)
    assert json.loads(second.stdout.splitlines()[-1]) == result
    assert (tmp_path / result["folder"] / "records" / "inline-1.jsonl").read_bytes() == records

    third = kdlib("run", *SMALL, "--strategy", "fedavg", "--again", cwd=tmp_path)
    assert json.loads(third.stdout.splitlines()[-1])["repeated"] == "same final bytes"
    assert len(list((tmp_path / result["folder"] / "records").glob("inline-2.jsonl"))) == 1

    fourth = kdlib("replay", result["folder"], cwd=tmp_path)
    assert json.loads(fourth.stdout.splitlines()[-1]) == json.loads(third.stdout.splitlines()[-1])
    refused(kdlib("replay", "nowhere", cwd=tmp_path), "nowhere", "no run")

    shown = kdlib("records", result["folder"], cwd=tmp_path)
    assert all(word in shown.stdout for word in ("train", "average", "evaluate", "accuracy", "cnn2-128-256", "cents"))
    lines = kdlib("records", result["folder"], "--csv", cwd=tmp_path).stdout.splitlines()
    assert len(lines) == 1 + len(records.splitlines())
    refused(kdlib("records", "nowhere", cwd=tmp_path), "nowhere", "no run")


def test_runs_are_compared_and_exported(common, tmp_path):
    runs = [common(strategy, alpha=0.1).folder for strategy in ("fedmd", "feddf")]
    shown = kdlib("compare", *runs, cwd=tmp_path)
    assert all(word in shown.stdout for word in ("strategy", "fedmd", "feddf", "accuracy", "modelled", "usd"))
    lines = kdlib("compare", *runs, "--csv", cwd=tmp_path).stdout.splitlines()
    assert [line.split(",")[0] for line in lines] == ["run", *(folder.name for folder in runs)]
    written = kdlib("export", runs[1], "--out", "models", cwd=tmp_path).stdout.splitlines()
    assert written == sorted(f"models/{path.name}" for path in (tmp_path / "models").iterdir()) and len(written) == 4
    refused(kdlib("export", runs[1], "--out", "models", cwd=tmp_path), "models is there already", "allowed")
    refused(kdlib("compare", "nowhere", cwd=tmp_path), "nowhere", "no run")


def test_a_handout_is_made_of_the_notebooks(tmp_path):
    made = kdlib("course", "--out", tmp_path / "class", cwd=ROOT)
    assert made.stdout == f"13 notebooks in {tmp_path / 'class'}\n", made.stderr
    refused(kdlib("course", "--out", "other", cwd=tmp_path), "holds no notebooks", "--notebooks")


def test_partition_shows_every_client(tmp_path):
    shown = kdlib("partition", "--task", "digits", "--alpha", "0.1", "--clients", "20", cwd=tmp_path).stdout
    assert shown.count("client-") == 20 and "label entropy" in shown
    lines = kdlib("partition", "--clients", "20", "--csv", cwd=tmp_path).stdout.splitlines()
    assert sum(int(line.split(",")[2]) for line in lines[1:]) == 20 * 39


def test_tasks_and_help_teach(tmp_path):
    assert all(name in kdlib("tasks", cwd=tmp_path).stdout for name in ("digits", "mnist", "emnist_letters"))
    shown = kdlib("run", "--help", cwd=tmp_path).stdout
    assert all(word in shown for word in ("`kdlib strategies`", "package.module:NAME", "clients=12", "JSON"))
    assert all(name in kdlib("strategies", cwd=tmp_path).stdout for name in ("alone", "fedavg", "feddf", "fedmd"))
    assert "--plugin" in kdlib("--help", cwd=tmp_path).stdout
    refused(kdlib("rnu", cwd=tmp_path), "rnu")


def test_an_interrupt_is_told_and_the_run_goes_on(tmp_path):
    command = [KDLIB, "run", "--task", "digits", "--profile", "smoke", "--strategy", "alone", "--set", "rounds=20"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("runs/*/records/inline-1.jsonl")):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130
    assert stderr.splitlines()[-1] == "kdlib: interrupted; the same command goes on from here"
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=300).returncode == 0


NAMESPACE = ["unshare", "--mount"]
CAN_MOUNT = subprocess.run([*NAMESPACE, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True).returncode == 0


@pytest.mark.skipif(not CAN_MOUNT, reason="needs the right to mount a small file system in a namespace of its own")
@pytest.mark.parametrize(("option", "words"), [("size=600k", "No space left on device"),
                                               ("ro", "Read-only file system")])
def test_a_full_or_read_only_runs_folder(option, words, tmp_path):
    runs = tmp_path / "runs"
    runs.mkdir()
    script = (f"mount -t tmpfs -o {option} tmpfs {runs} && cd {tmp_path} && "
              f"{KDLIB} run {' '.join(SMALL)} --strategy fedavg 2>&1; echo status $?; ls -A {runs}")
    shown = subprocess.run([*NAMESPACE, "sh", "-c", script], capture_output=True, text=True, timeout=120).stdout
    said = [line for line in shown.splitlines() if line.startswith("kdlib: ")]
    assert "status 2" in shown and len(said) == 1 and words in said[0], shown
    assert "Traceback" not in shown
    left = shown.partition("status 2")[2].split()
    assert all(name.startswith(".") for name in left), "no folder that a resume would trust"
