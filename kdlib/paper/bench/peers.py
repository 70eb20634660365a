"""kdlib beside its peers on this machine: FedAvg by Flower's simulation, FedMD as a plain loop of PyTorch.

Both sides of a pair do the same work on the same data: the same networks, parts, batches and epochs; each evaluates
once, at the end, which is not counted. What takes time before the first client trains is told apart.
"""

import functools
import importlib.util
import tempfile
import time
from importlib.metadata import version
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdlib.data import sets
from kdlib.errors import KdlibError
from kdlib.learning.client import alignment_rows
from kdlib.learning.engine import Loss
from kdlib.machine import cores
from kdlib.paper.bench import plain
from kdlib.paper.bench.measure import TINY, Bench, alternate, finish, medians, ratio
from kdlib.runs import runner
from kdlib.runs.invokers import make_invoker
from kdlib.settings.experiment import Experiment, make_experiment
from kdlib.store.names import private, public
from kdlib.store.store import Store
from kdlib.strategies.fedavg import FedAvg
from kdlib.strategies.fedmd import FedMD

# FedAvg of 20 clients with 540 images each, five epochs, three rounds of a two-layer network at width 1/8.
FEDAVG: dict[str, Any] = {"profile": "paper", "architectures": ("cnn2-128-256",), "width": 0.125, "rounds": 3,
                          "clients": 20, "clients_per_round": 20, "samples": 540, "test_items": 500}
FEDMD: dict[str, Any] = {"profile": "laptop", "clients": 6, "rounds": 3}
QUICK: dict[str, Any] = {"width": TINY, "rounds": 1, "samples": 32, "test_items": 32}
PATIENT: dict[str, Any] = {"transfer_patience": 1000, "pretrain_patience": 1000, "evaluate_every": 999}


def bench_peers(pairs: int, quick: bool) -> Bench:
    """Seconds of the rounds: FedAvg, Flower over kdlib (the ratio); FedMD, a plain loop over kdlib by one process."""
    if importlib.util.find_spec("flwr") is None:
        raise KdlibError("bench peers compares with Flower, which is not installed; allowed after: "
                         "pip install 'kdlib[peers]'")
    from kdlib.paper.bench import flower

    task, small = ("digits", QUICK) if quick else ("mnist", {})
    shared = make_experiment(task, "fedavg", 100, **FEDAVG | small)
    exchanged = make_experiment(task, "fedmd", 100, **FEDMD | PATIENT | small)
    assert isinstance(shared, FedAvg) and isinstance(exchanged, FedMD)
    started: dict[str, list[float]] = {}
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as place:
        stores = {}
        for experiment in (shared, exchanged):
            stores[experiment.strategy] = Store(f"{place}/{experiment.strategy}")
            runner.deploy(experiment, sets.prepare(experiment), stores[experiment.strategy])

        def timed(side: Any, name: str) -> float:
            before, took = side()
            started.setdefault(name, []).append(before)
            return float(took)

        for experiment, peer, invoker in (
                (shared, functools.partial(flower.rounds, shared, stores["fedavg"], cores()), "processes"),
                (exchanged, functools.partial(_by_hand, exchanged, stores["fedmd"]), "inline")):
            of = {"fedavg": "FedAvg, Flower", "fedmd": "FedMD, plain loop"}[experiment.strategy]
            ours = f"{of.split(',')[0]}, kdlib ({invoker})"
            seconds |= alternate({
                of: functools.partial(timed, peer, of),
                ours: functools.partial(timed, functools.partial(_ours, experiment, invoker), ours)}, pairs, of)
    sides = list(seconds)
    factors = {"FedAvg: Flower over kdlib": ratio(seconds[sides[0]], seconds[sides[1]]),
               "FedMD: plain loop over kdlib": ratio(seconds[sides[2]], seconds[sides[3]])}
    bench = finish("peers", factors["FedAvg: Flower over kdlib"], factors, seconds, 1)
    bench.facts = {f"{name}: s before the first client": value for name, value in medians(started).items()}
    bench.notes = [f"Flower {version('flwr')} with Ray {version('ray')}; both FedAvg sides on {cores()} cores, "
                   "both FedMD sides on one"]
    return bench


def _ours(experiment: Experiment, invoker: str) -> tuple[float, float]:
    """Seconds before the first round's first Step begins, and from there to the end of what is no evaluation."""
    with tempfile.TemporaryDirectory() as place, make_invoker(invoker) as means:
        clock = time.time()
        return _span(runner.run(experiment, place, progress=False, invoker=means).table, clock)


def _span(table: Any, clock: float) -> tuple[float, float]:
    steps, evaluations = (table[(table["step"] == "evaluate") == which] for which in (False, True))
    first, last = float(steps["started"].min()), float((steps["started"] + steps["seconds"]).max())
    between = evaluations[evaluations["started"] < last]
    return first - clock, last - first - float(between["seconds"].sum())


def _by_hand(experiment: FedMD, store: Store) -> tuple[float, float]:
    """FedMD as one writes it first: a loop over clients in one process, everything in memory."""
    torch.set_num_threads(experiment.threads)
    known = store.get(public("data"))
    own = {name: store.get(private(name, "data")) for name in experiment.client_names}
    clock = time.time()
    taught = {}
    for architecture in experiment.architectures:
        taught[architecture] = model = plain.model(experiment, architecture)
        _until_it_converges(experiment, model, known, experiment.pretrain_batch, experiment.pretrain_epochs)
    models = {name: plain.model(experiment, name) for name in own}
    for name, model in models.items():
        model.load_state_dict(taught[experiment.architecture_of(name)].state_dict())
        _until_it_converges(experiment, model, own[name], experiment.batch, experiment.transfer_epochs)
    for round_ in range(1, experiment.rounds + 1):
        x = known["x"][alignment_rows(experiment, round_, len(known["x"]))]
        logits = [plain.predict(model, x, experiment.pretrain_batch) for model in models.values()]
        consensus = torch.stack(logits).mean(0)
        for name, model in models.items():
            _epochs(experiment, model, x, consensus, experiment.digest_batch, experiment.digest_epochs, F.l1_loss)
            _epochs(experiment, model, own[name]["x"], own[name]["y"], experiment.batch, experiment.revisit_epochs)
    return 0.0, time.time() - clock


def _until_it_converges(experiment: Experiment, model: plain.Plain, data: dict[str, Tensor], batch: int,
                        epochs: int) -> None:
    """Four fifths are trained on, a fifth scores each epoch; the patience is such that nothing stops early."""
    rest = len(data["y"]) - len(data["y"]) // 5
    _epochs(experiment, model, data["x"][:rest], data["y"][:rest], batch, epochs)
    for _ in range(epochs):
        F.cross_entropy(plain.predict(model, data["x"][rest:], batch), data["y"][rest:])


def _epochs(experiment: Experiment, model: plain.Plain, x: Tensor, target: Tensor, batch: int, epochs: int,
            loss: Loss = F.cross_entropy) -> None:
    plain.train(experiment, model, x, target, batch, max(1, epochs * len(x) // batch), loss)
