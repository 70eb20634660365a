"""A strategy is one file, a network is one file, and nothing else in the house knows a strategy by its name."""

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdlib.registry import STRATEGIES

ROOT = Path(__file__).parents[1]
OWN = [found.value for name in STRATEGIES.names() if (found := STRATEGIES.find(name)).source is None]
NAMES = {word for strategy in OWN for word in (strategy.name, strategy.title)}
STEPS = {step.name for strategy in OWN for step in strategy.steps}
ELSEWHERE = ("kdlib/strategies/", "kdlib/paper/")  # where strategies are declared, and what is about the paper's

# Where a word may stand all the same: of a data set `train` is the split, and the program's help says what it is about.
ALLOWED = {("kdlib/data/", "train"), *(("kdlib/cli/main.py", word) for word in ("FedMD", "FedDF", "feddf"))}
# Names that are words of English too, so that an identifier of that kind says nothing.
ORDINARY = {"alone"}


def found(text: str) -> Iterator[tuple[int, str]]:
    """Line and word of each strategy or Step that the code names.

    Strategies count in identifiers and within strings, docstrings apart; Steps, and words of English, as whole strings.
    """
    tree = ast.parse(text)
    docstrings = {id(node.body[0].value) for node in ast.walk(tree)
                  if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
                  and node.body and isinstance(node.body[0], ast.Expr)}
    strategy = re.compile("|".join(sorted(NAMES - ORDINARY)), re.IGNORECASE)
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            whole = [node.value] if node.value in ORDINARY | STEPS else []
            yield from ((line, word) for word in [*strategy.findall(node.value), *whole])
        for field in ("id", "attr", "name", "arg", "module", "asname"):
            value = getattr(node, field, None)
            if isinstance(value, str) and strategy.search(value):
                yield line, value


def test_what_would_be_found():
    assert {"fedmd", "FedMD", "alone"} <= NAMES and {"train", "distil", "aggregate"} <= STEPS
    code = '''"""FedMD's train."""
import kdlib.strategies.fedmd
from kdlib.strategies import FedDF as other
# fedavg
def train(alone, fedmd_only): "aggregate"
if step == "distil" or kind in ("alone",): x.fedavg = f"{y} digest" + "the train of FedDF"
'''
    assert [word for _, word in sorted(found(code))] == [
        "kdlib.strategies.fedmd", "FedDF", "fedmd_only", "FedDF", "alone", "distil", "fedavg"]


@pytest.mark.parametrize("package", ["kdlib", "faas"])
def test_a_strategy_is_known_by_name_in_its_own_file_alone(package):
    files = {path.relative_to(ROOT).as_posix(): path for path in (ROOT / package).rglob("*.py")}
    assert len(files) > 20
    told = [f"{name}:{line} {word}" for name, path in sorted(files.items()) if not name.startswith(ELSEWHERE)
            for line, word in found(path.read_text())
            if not any(name.startswith(place) and word == other for place, other in ALLOWED)]
    assert told == []


STRATEGY = '''"""Lonely: the smallest strategy, for a test."""

from kdlib.invoke.steps import Stage
from kdlib.invoke.strategy import Strategy, Work, of_client, personal_model
from kdlib.learning.client import save, start, test_accuracy, train_privately
from kdlib.settings.experiment import Count, Experiment
from kdlib.store.names import named


class Lonely(Experiment):
    """Settings of the smallest strategy."""

    local_epochs: Count = 1


def workflow(experiment, chosen):
    """One round after the other."""
    for round_ in range(1, experiment.rounds + 1):
        yield Stage("study", experiment.client_names, round_)
        yield Stage("examine", experiment.client_names, round_)


def study(experiment, store, round_, client):
    """Always anew."""
    model = start(experiment, client)
    metrics = train_privately(experiment, store, round_, client, model, experiment.local_epochs, "study")
    save(store, named(client, round_, "weights"), model)
    return metrics


def examine(experiment, store, round_, client):
    """On the test set."""
    return test_accuracy(experiment, store, client, named(client, round_, "weights"))


STRATEGY = Strategy(
    name="lonely", title="lonely", settings=Lonely, workflow=workflow, personal=True, model=personal_model,
    steps=(of_client(study, lambda e, n: Work(trained=n.client)), of_client(examine, lambda e, n: Work(predicted=1))))
'''
NETWORK = '''"""A linear network, for a test."""

import math

from torch import nn

from kdlib.settings.architectures import Network


def linear(task, classes, width, generator):
    """Softmax regression."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(task.shape), classes))
    nn.init.xavier_uniform_(model[1].weight, generator=generator)
    return model


NETWORKS = {"linear": Network(linear)}
'''


def test_a_file_each_is_all_that_a_strategy_and_a_network_take(tmp_path):
    """In a copy of kdlib: no list, no dictionary and no import elsewhere has to name them."""
    copy = tmp_path / "kdlib"
    shutil.copytree(ROOT / "kdlib", copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "strategies" / "lonely.py").write_text(STRATEGY)
    (copy / "learning" / "networks" / "linear.py").write_text(NETWORK)

    def kdlib(*words):
        code = "import sys; from kdlib.cli.main import main; sys.argv[0] = 'kdlib'; main()"
        done = subprocess.run([sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "lonely       lonely       Settings of the smallest strategy." in kdlib("strategies")
    settings = ('architectures=["linear", "cnn2-128-256"]', "rounds=1", "samples=20", "clients=2", "test_items=20")
    ran = kdlib("run", "--strategy", "lonely", "--profile", "smoke", *(f"--set={setting}" for setting in settings))
    assert '"linear": ' in ran
    (folder,) = (path for path in (tmp_path / "runs").iterdir() if path.is_dir())
    shown = kdlib("records", str(folder))
    assert "study" in shown and "examine" in shown
