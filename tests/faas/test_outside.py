"""Strategies and networks that are not kdlib's own, in functions: those that the user names, and no others."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from faas.function.confinement import possible
from functions import KEY, ROOT, Function, deployed, tiny
from kdlib.settings.experiment import Experiment
from kdlib.store.store import Store

STRATEGY = """
from kdlib.invoke.steps import Stage
from kdlib.invoke.strategy import Strategy, Work, of_client, personal_model
from kdlib.learning import client
from kdlib.registry import STRATEGIES
from kdlib.settings.experiment import Experiment
from kdlib.store.names import named


class Own(Experiment):
    epochs: int = 1


def workflow(experiment, chosen):
    for step in ("train", "evaluate"):
        yield Stage(step, experiment.client_names, 1)


def train(experiment, store, round_, subject):
    model = client.start(experiment, subject)
    metrics = client.train_privately(experiment, store, round_, subject, model, experiment.epochs, "train")
    client.save(store, named(subject, round_, "weights"), model)
    return metrics


def evaluate(experiment, store, round_, subject):
    return client.test_accuracy(experiment, store, subject, named(subject, round_, "weights"))


STRATEGIES.register("own", Strategy(
    name="own", title="own", settings=Own, workflow=workflow, personal=True, model=personal_model,
    steps=(of_client(train, lambda e, n: Work(trained=n.client)), of_client(evaluate, lambda e, n: Work(predicted=1)))))
"""
NETWORK = """
import math
import torch
from torch import nn


class Plain(nn.Module):  # without any product that counts as work
    def __init__(self, items, classes):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, items) / items)

    def forward(self, x):
        return (x.flatten(1)[:, None] * self.weight).sum(-1)


def build(task, classes, width, generator):
    return Plain(math.prod(task.shape), classes)
"""
REGISTERED = NETWORK + """
from kdlib.registry import NETWORKS
NETWORKS.register("of-a-module", build)
"""
SETTINGS = ["--task", "digits", "--strategy", "own", "--profile", "smoke", "--set", "clients=2", "--set", "rounds=1",
            "--set", 'architectures=["of-a-module", "of-a-package"]']
BY_VALUE = REGISTERED.replace(").sum(-1)", ").sum(-1) + int(x.sum() > 0)")
EVIL = "from pathlib import Path; Path(__file__).with_name('imported').touch(); thing = None"


def installed(folder, module):
    """A package with an entry point, as pip leaves it: NETWORK as the network of-a-package."""
    (folder / f"{module}.py").write_text(NETWORK)
    about = folder / f"{module}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[kdlib.models]\nof-a-package = {module}:build\n")


@pytest.fixture
def user(tmp_path):
    """Run a command as a user with a plugin of each kind: a file, a module in the working folder, and a package."""
    (tmp_path / "here" / "rooms").mkdir(parents=True)
    (tmp_path / "here" / "rooms" / "networks.py").write_text(REGISTERED)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "own.py").write_text(STRATEGY)
    (tmp_path / "packages").mkdir()
    installed(tmp_path / "packages", "packed")
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:../packages", "KDLIB_PLUGINS": "../there/own.py:rooms.networks"}

    def run(program, *arguments):
        command = [Path(sys.executable).with_name(program)] if program == "kdlib" else [sys.executable, "-m", program]
        done = subprocess.run([*command, *map(str, arguments)], cwd=tmp_path / "here", env=environment,
                              capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_a_strategy_and_networks_from_outside_end_with_the_bytes_of_one_process(user, tmp_path):
    here, folder = tmp_path / "here", tmp_path / "functions"
    (here / "experiment.json").write_text(user("kdlib", "experiment", *SETTINGS))
    user("kdlib", "run", *SETTINGS, "--runs", tmp_path / "inline")
    user("faas", "up", "--process", "--experiment", "experiment.json", "--folder", folder)
    try:
        user("kdlib", "run", *SETTINGS, "--runs", tmp_path / "http", "--invoker", "http", "--endpoints",
             folder / "endpoints.json")
        if possible(folder) is None:  # they were imported by processes that see no neighbour's data
            for process in psutil.Process(int((folder / "supervisor.pid").read_text())).children():
                own = process.environ()["KDLIB_SUBJECT"]
                seen = Path(f"/proc/{process.pid}/root{folder}/store/private")
                assert not seen.exists() or [path.name for path in seen.iterdir()] == [own]
    finally:
        user("faas", "down", "--folder", folder)
    (inline,), (http,) = ([json.loads(path.read_text()) for path in (tmp_path / name).glob("*/result.json")]
                          for name in ("inline", "http"))
    assert (http["key"], http["final_bytes"]) == (inline["key"], inline["final_bytes"])
    records = [json.loads(line) for path in (tmp_path / "http").glob("*/records/*.jsonl")
               for line in path.read_text().splitlines()]
    assert {(record["backend"], record["step"]) for record in records} == {("http", "train"), ("http", "evaluate")}


@pytest.mark.parametrize(("named", "kind"), [
    ({"strategy": "evil:thing"}, "strategy"),
    ({"architectures": ["evil:thing", "cnn2-128-256"]}, "network"),
])
def test_what_an_experiment_merely_names_is_not_imported(named, kind, tmp_path):
    (tmp_path / "evil.py").write_text(EVIL)
    path = f"{tmp_path}:{ROOT}"
    subprocess.run([sys.executable, "-c", "import evil"], env=os.environ | {"PYTHONPATH": path}, check=True)
    (tmp_path / "imported").unlink()  # so Python finds it, where somebody imports it
    url = f"{tmp_path}/store/{{owner}}"
    deployed(url, tiny("feddf"))
    Store(f"{url}/{KEY}").put_json("public/experiment", tiny("feddf").model_dump(mode="json") | named)
    with Function("client-0000", f"file://{url}", tmp_path / "log", PYTHONPATH=path) as function:
        answer = function.step("train", 1)
    assert answer.status_code == 422, answer.text
    assert f"the {kind} evil:thing is not registered here; allowed: `--plugin evil`" in answer.json()["error"]
    assert not (tmp_path / "imported").exists()


def test_a_package_that_lacks_what_it_needs_is_one_line(tmp_path):
    installed(tmp_path, "packed")
    (tmp_path / "packed.py").write_text("import absent")
    url = f"{tmp_path}/store/{{owner}}"
    deployed(url, tiny("feddf"))
    Store(f"{url}/{KEY}").put_json("public/experiment", tiny("feddf").model_dump(mode="json")
                                   | {"architectures": ["of-a-package", "cnn2-128-256"]})
    with Function("client-0000", f"file://{url}", tmp_path / "log", PYTHONPATH=f"{tmp_path}:{ROOT}") as function:
        answer = function.step("train", 1)
    assert answer.status_code == 422, answer.text
    assert "the network of-a-package of the package packed cannot be imported (ModuleNotFoundError: No module named " \
        "'absent'); allowed: a version of it that fits here" in answer.json()["error"]


def test_another_version_of_a_strategy_than_the_drivers_is_refused(tmp_path):
    (tmp_path / "own.py").write_text(STRATEGY)
    url = f"{tmp_path}/store/{{owner}}"
    deployed(url, tiny("feddf"))
    store = Store(f"{url}/{KEY}")
    store.put_json("public/experiment", tiny("feddf").model_dump(mode="json", include=set(Experiment.model_fields))
                   | {"strategy": "own"})
    with Function("client-0000", f"file://{url}", tmp_path / "log", KDLIB_PLUGINS=f"{tmp_path}/own.py") as function:
        for sources in (None, {}, {"own": "0" * 64}):
            if sources is not None:
                store.put_json("public/sources", sources)
            answer = function.step("train", 1)
            said = "public/sources is not in" if sources is None else "own is another version here than where the run"
            assert answer.status_code == 422 and said in answer.json()["error"], answer.text


@pytest.mark.parametrize("command", [
    [sys.executable, "-m", "faas.function.server"],
    [sys.executable, "-c", "from faas.function.func import new; new()"],
])
def test_a_plugin_that_cannot_be_imported_ends_a_function_with_one_line(command, tmp_path):
    (tmp_path / "own.py").write_text("raise OSError('no\\nsuch disk')")
    function = Function("client-0000", "file:///x/{owner}", tmp_path / "log", command,
                        KDLIB_PLUGINS=str(tmp_path / "own.py"))
    assert function.process.wait(120) == 2
    (line,) = function.log.read_text().splitlines()
    assert line.startswith(f"faas: the plugin {tmp_path}/own.py cannot be imported (OSError: no such disk); allowed:")


@pytest.mark.parametrize(("options", "said"), [
    (["--plugin", "own.py"], "own.py cannot be imported (ZeroDivisionError"),
    (["--plugin", "none.py"], "there is no plugin "),
    (["--docker", "--plugin", "fine.py"], "fine.py; allowed: a package in the image, by `python -m faas image --with"),
])
def test_a_mistake_is_one_line_and_nothing_is_written(options, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text("1 / 0")
    (tmp_path / "fine.py").touch()
    before = sorted(tmp_path.glob("*"))
    done = subprocess.run([sys.executable, "-m", "faas", "up", "--clients", "1", *options], capture_output=True,
                          text=True, env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"})
    assert done.returncode == 2 and said in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    assert sorted(tmp_path.glob("*")) == before


def test_a_network_that_goes_by_values_cannot_be_sized_and_is_one_line(tmp_path):
    (tmp_path / "own.py").write_text(BY_VALUE)
    options = {"cwd": tmp_path, "capture_output": True, "text": True,
               "env": os.environ | {"PYTHONPATH": str(ROOT), "KDLIB_PLUGINS": "own.py"}}
    made = subprocess.run([Path(sys.executable).with_name("kdlib"), "experiment", "--strategy", "alone", "--profile",
                           "smoke", "--set", 'architectures=["of-a-module"]'], **options)
    (tmp_path / "experiment.json").write_text(made.stdout)
    done = subprocess.run([sys.executable, "-m", "faas", "up", "--experiment", "experiment.json"], **options)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert "architecture of-a-module does not fit" in done.stderr and "followed by shapes alone" in done.stderr
    assert not (tmp_path / "functions").exists()


@pytest.mark.parametrize(("who", "hidden"), [("nobody", True), ("a plugin", False), ("a package", False)])
def test_nothing_is_hidden_from_what_comes_from_outside(who, hidden, tmp_path):
    environment = {"PYTHONPATH": f"{tmp_path}:{ROOT}"} | ({"KDLIB_PLUGINS": "x.py"} if who == "a plugin" else {})
    if who == "a package":
        installed(tmp_path, "packed")
    done = subprocess.run([sys.executable, "-c", "from faas.function.lean import hide; hide(); import scipy"],
                          env=os.environ | environment, capture_output=True, text=True)
    assert ("No module named 'scipy'" in done.stderr or "import of scipy halted" in done.stderr) == hidden
    assert bool(done.returncode) == hidden
