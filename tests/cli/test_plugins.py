"""Strategies and networks of one's own on the command line: a file beside the data, and no line of kdlib changed."""

import json
import os

import pytest

import forked

MINE = '''
import torch

from kdlib.invoke.steps import Stage
from kdlib.invoke.strategy import Strategy, Work, of_client, personal_model
from kdlib.learning.client import load, save, start, test_accuracy, train_privately
from kdlib.registry import NETWORKS, STRATEGIES
from kdlib.settings.experiment import Experiment
from kdlib.store.names import named


class Settings(Experiment):
    """Every client trains for itself."""

    passes: int = 1


def workflow(experiment, chosen):
    for round_ in range(1, experiment.rounds + 1):
        yield Stage("learn", experiment.client_names, round_)
        yield Stage("look", experiment.client_names, round_)


def learn(experiment, store, round_, client):
    before = named(client, round_ - 1, "weights")
    model = start(experiment, client) if round_ == 1 else load(experiment, store, client, before)
    metrics = train_privately(experiment, store, round_, client, model, experiment.passes, "learn")
    save(store, named(client, round_, "weights"), model)
    return metrics


def look(experiment, store, round_, client):
    return test_accuracy(experiment, store, client, named(client, round_, "weights"))


STRATEGIES.register("mine", Strategy(
    name="mine", title="Mine", settings=Settings, workflow=workflow, personal=True, model=personal_model,
    steps=(of_client(learn, lambda e, n: Work(trained=n.client * e.passes)),
           of_client(look, lambda e, n: Work(predicted=1), needs="learn")),
    profiles={"smoke": {"passes": 2}}))


def flat(num_classes=1000):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(28 * 28, num_classes))


NETWORKS.register("flat", flat)
'''
SMALL = ("--task", "digits", "--profile", "smoke", "--set", "rounds=2", "--set", "samples=40", "--set", "test_items=50")
OWN = ("--strategy", "mine", "--set", 'architectures=["flat","cnn2-8-8"]')


@pytest.fixture
def kdlib(tmp_path):
    """Runs `kdlib ...` in a folder that holds mine.py; returns the finished process."""
    (tmp_path / "mine.py").write_text(MINE)

    def run(*arguments, **environment):
        clean = {name: value for name, value in os.environ.items() if name != "KDLIB_PLUGINS"}
        return forked.run("kdlib", *arguments, cwd=tmp_path, environment=clean | environment)

    return run


def result(process):
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


def refused(process, *words):
    lines = process.stderr.strip().splitlines()
    assert process.returncode == 2 and len(lines) == 1 and lines[0].startswith("kdlib: "), process.stderr
    assert all(word in lines[0] for word in words), lines[0]


def test_a_plugin_runs_wherever_it_stands_and_its_run_is_like_any_other(kdlib, tmp_path):
    first = result(kdlib("run", *SMALL, *OWN, "--plugin", "mine.py", "--again"))
    assert set(first["per_architecture"]) == {"flat", "cnn2-8-8"} and first.pop("repeated") == "same final bytes"
    assert result(kdlib("--plugin", "mine.py", "run", *SMALL, *OWN)) == first
    assert result(kdlib("run", *SMALL, *OWN, "--plugin=mine.py")) == first
    assert result(kdlib("run", *SMALL, *OWN, KDLIB_PLUGINS="mine.py")) == first
    folder = first["folder"]
    assert json.loads((tmp_path / folder / "experiment.json").read_text())["passes"] == 2, "its own profile's"
    assert result(kdlib("replay", folder, "--plugin", "mine.py"))["repeated"] == "same final bytes"
    shown = kdlib("records", folder, "--plugin", "mine.py").stdout
    assert all(word in shown for word in ("learn", "look", "flat", "cents"))
    assert kdlib("compare", folder, "--plugin", "mine.py", "--csv").stdout.splitlines()[1].startswith(first["key"])
    compared = kdlib("compare", folder, "--plugin", "mine.py", "--csv").stdout.splitlines()
    assert compared[1].split(",")[0] == first["key"] and "usd" in compared[0]
    written = kdlib("export", folder, "--out", "models", "--plugin", "mine.py").stdout.splitlines()
    assert len(written) == 7 and "models/client-0000.safetensors" in written
    refused(kdlib("replay", folder, "--plugin"), "--plugin")
    refused(kdlib("replay", folder), "unknown strategy 'mine'", "--plugin FILE.py")
    refused(kdlib("records", folder), "unknown strategy 'mine'")


def test_a_changed_plugin_makes_another_run(kdlib, tmp_path):
    first = result(kdlib("run", *SMALL, *OWN, "--plugin", "mine.py"))
    (tmp_path / "mine.py").write_text(MINE + "# changed\n")
    second = result(kdlib("run", *SMALL, *OWN, "--plugin", "mine.py"))
    assert second["key"] != first["key"] and second["per_architecture"] == first["per_architecture"]


def test_a_part_may_be_named_by_its_module_without_a_plugin(kdlib, tmp_path):
    by_name = result(kdlib("run", *SMALL, "--strategy", "alone", "--set", 'architectures=["mine:flat"]'))
    assert list(by_name["per_architecture"]) == ["mine:flat"]
    assert (tmp_path / by_name["folder"] / "store" / "client-0000" / "002" / "weights.safetensors").exists()
    server = result(kdlib("run", *SMALL, "--strategy", "feddf", "--set", 'architectures=["mine:flat","cnn2-8-8"]'))
    assert (tmp_path / server["folder"] / "store" / "public" / "002" / "mine-flat.safetensors").exists()


def test_strategies_are_listed_with_what_they_are(kdlib):
    shown = kdlib("strategies").stdout.splitlines()
    assert [line.split()[0] for line in shown] == ["alone", "fedavg", "feddf", "fedmd"]
    shown = kdlib("strategies", "--plugin", "mine.py").stdout.splitlines()
    assert shown[-1].split() == ["mine", "Mine", "Every", "client", "trains", "for", "itself."] and len(shown) == 5


def test_a_run_of_a_plugin_is_estimated_too(kdlib):
    found = kdlib("estimate", *SMALL, *OWN, "--plugin", "mine.py", "--json")
    assert found.returncode == 0, found.stderr
    assert set(json.loads(found.stdout)["per_step"]) == {"learn", "look"}


BAD = MINE.replace("28 * 28, num_classes", "28 * 28, num_classes + 1")


def test_a_network_that_does_not_fit_is_refused_before_anything_is_written(kdlib, tmp_path):
    (tmp_path / "mine.py").write_text(BAD)
    refused(kdlib("run", *SMALL, *OWN, "--plugin", "mine.py"), "architecture flat does not fit task digits",
            "of two items it makes torch.float32 [2, 7], not logits [2, 6]")
    assert {path.name for path in tmp_path.iterdir()} <= {"mine.py", "__pycache__"}
