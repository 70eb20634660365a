"""The paper's two optimisations and ours: C4 (pretrain), C5 (distil), and FedMD's fused round."""

import contextlib
import functools
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdlib.data import sets
from kdlib.invoke.perform import perform
from kdlib.invoke.ray import Ray
from kdlib.invoke.steps import Step
from kdlib.learning import client
from kdlib.learning.engine import Batches, predict
from kdlib.learning.models import start
from kdlib.paper.bench import plain
from kdlib.paper.bench.measure import TINY, Bench, alternate, finish, medians, ratio, workers
from kdlib.runs import runner
from kdlib.runs.invokers import INLINE
from kdlib.runs.run import Run
from kdlib.settings.experiment import Experiment, make_experiment
from kdlib.store.store import Store
from kdlib.strategies.feddf import FedDF, divergence

CLIENTS = 100
TEACHERS = 20
BATCHES = (40, 1000)  # of a distillation
ITEMS = 5000  # of an alignment sample


def bench_pretrain(pairs: int, quick: bool) -> Bench:
    """C4: public transfer learning for 100 clients of 6 architectures, one after another / once each / side by side."""
    clients = 12 if quick else CLIENTS
    smaller: dict[str, Any] = {"pretrain_epochs": 1, "width": TINY} if quick else {}
    experiment = make_experiment("digits", "fedmd", 100, clients=clients, **smaller)
    steps = [Step("pretrain", 0, architecture) for architecture in experiment.architectures]
    every = [Step("pretrain", 0, experiment.architecture_of(name)) for name in experiment.client_names]
    with _store_for(experiment) as store, contextlib.closing(Ray(workers=2)) as ray:
        list(ray.run("bench", experiment, store, steps))  # start-up apart
        seconds = alternate({
            "one after another, per client": lambda: [perform(experiment, store, step) for step in every],
            "once per architecture": lambda: [perform(experiment, store, step) for step in steps],
            "side by side (ray, 2 workers)": lambda: list(ray.run("bench", experiment, store, steps)),
        }, pairs, "pretrain")
    client_by_client, once, side_by_side = medians(seconds).values()  # of which the factors multiply to the whole
    return finish("pretrain", client_by_client / side_by_side,
                  {"de-duplication": client_by_client / once, "parallelism": once / side_by_side},
                  seconds, experiment.threads,
                  notes=[f"{clients} clients, {len(steps)} architectures, laptop profile on digits; the paper: 3.5x"])


def bench_distil(pairs: int, quick: bool) -> Bench:
    """C5: 6 students taught by 20 clients, as the original does it, then each optimisation added, no early stop.

    Every side is measured on a few batches and on the teachers' prediction, and scaled to 40 and to 1,000 batches;
    with shared teachers 40 are measured as they are.
    """
    teachers, items, measured = (6, 256, (1, 2)) if quick else (TEACHERS, ITEMS, (4, 40))
    smaller: dict[str, Any] = {"width": TINY} if quick else {}
    experiment = make_experiment("digits", "feddf", 100, clients=teachers, clients_per_round=teachers, distil_batch=128,
                                 alignment_items=items, precision="auto", **smaller)
    assert isinstance(experiment, FedDF)
    x = torch.from_numpy(sets.prepare(experiment).public.x).repeat(10, 1, 1)[:items]
    students, names = experiment.architectures, experiment.client_names
    # Plain work has processes of its own: what the engine asks of the allocator must not help it.
    with workers(2) as plain_workers, workers(2) as engine_workers:

        def parallel(function: Callable[..., None], of: Iterable[str], *args: Any) -> None:
            pool = engine_workers if args[-1] == "engine" else plain_workers
            for one in [pool.submit(function, experiment, one, x, *args) for one in of]:
                one.result()

        few, more = measured

        def sequential() -> None:
            for one in students:
                _distil(experiment, one, x, few, "recomputed")

        seconds = alternate({
            "recomputed, sequential": sequential,
            "recomputed, parallel": lambda: parallel(_distil, students, few, "recomputed"),
            "teachers' logits once": lambda: parallel(_teach, names, "plain"),
            "shared teachers, parallel": lambda: parallel(_distil, students, more, "plain"),
            "teachers' logits once (engine)": lambda: parallel(_teach, names, "engine"),
            "shared teachers, parallel, engine": lambda: parallel(_distil, students, more, "engine"),
        }, pairs, "distil")
    factors = {name: value for batches in BATCHES for name, value in _at(batches, few, more, medians(seconds)).items()}
    extrapolated = {f"{way} teachers at {batches} batches": batches / ran
                    for batches in BATCHES for way, ran in (("recomputed", few), ("shared", more)) if batches != ran}
    seen = {name: len(names) * items if "logits" in name else
            len(students) * experiment.distil_batch * (few if "recomputed" in name else more) for name in seconds}
    return finish("distil", factors[f"{BATCHES[-1]} batches: in all"], factors, seconds, experiment.threads, seen,
                  extrapolated=extrapolated,
                  notes=[f"{teachers} teachers, {len(students)} students, {items} alignment items, batches of 128, "
                         f"width {experiment.width:g}; engine in {experiment.precision}; the paper: 1.76x"])


def _distil(experiment: FedDF, architecture: str, x: Tensor, batches: int, way: str) -> None:
    """One student's distillation; way: recomputed (plain, teachers predicted for every batch), plain, or engine."""
    torch.set_num_threads(experiment.threads)
    logits = torch.zeros(len(x), experiment.classes)
    if way == "engine":
        own = Batches(experiment, x, logits, experiment.distil_batch, 0)
        client.fit(experiment, start(experiment, architecture), own, divergence, steps=batches)
        return
    teachers = _teachers(experiment) if way == "recomputed" else []

    def recomputed(seen: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.stack([teacher(seen) for teacher in teachers]).mean(0)

    student = plain.model(experiment, architecture)
    target = recomputed if teachers else logits
    plain.train(experiment, student, x, target, experiment.distil_batch, batches, divergence)


@functools.lru_cache(maxsize=1)
def _teachers(experiment: FedDF) -> list[plain.Plain]:
    """Built at the call that does not count: once a distillation, not once for the few batches that are measured."""
    return [plain.model(experiment, name).eval() for name in experiment.client_names]


def _teach(experiment: FedDF, name: str, x: Tensor, way: str) -> None:
    """One client's logits on the alignment sample, right after its training."""
    torch.set_num_threads(experiment.threads)
    if way == "engine":
        predict(experiment, start(experiment, name), x)
    else:
        plain.predict(plain.model(experiment, name), x, experiment.distil_batch)


def _at(batches: int, few: int, more: int, once: dict[str, float]) -> dict[str, float]:
    """The factors of so many batches, from the medians of what was run; they multiply to the whole."""
    sequential, parallel = (once[f"recomputed, {way}"] * batches / few for way in ("sequential", "parallel"))
    shared = once["shared teachers, parallel"] * batches / more + once["teachers' logits once"]
    engine = once["shared teachers, parallel, engine"] * batches / more + once["teachers' logits once (engine)"]
    return {f"{batches} batches: parallel": sequential / parallel,
            f"{batches} batches: shared teachers": parallel / shared,
            f"{batches} batches: engine": shared / engine,
            f"{batches} batches: in all": sequential / engine}


def bench_fused(pairs: int, quick: bool) -> Bench:
    """FedMD's round in four invocations a client against one: invocations, bytes through the Store, seconds, bytes."""
    experiment = make_experiment("digits", "fedmd", 0.1, profile="smoke" if quick else "laptop", rounds=3,
                                 pretrain_epochs=1, transfer_epochs=1)  # not what is measured
    with tempfile.TemporaryDirectory() as place:
        made: dict[bool, Run] = {}
        count = iter(range(1000))

        def side(fused: bool) -> float:
            folder = Path(place) / str(next(count))
            made[fused] = runner.run(experiment, folder, progress=False, invoker=INLINE, fused=fused)
            table = made[fused].table
            return float(table.query("round == 2")["seconds"].sum())  # a round between the first and the last

        seconds = alternate({"four invocations": lambda: side(False), "one invocation": lambda: side(True)}, pairs)
        rounds = {fused: one.table.query("round == 2 and step != 'aggregate'") for fused, one in made.items()}
        same = made[True].final["final_bytes"] == made[False].final["final_bytes"]
    moved = {fused: float((table["bytes_in"] + table["bytes_out"]).sum()) for fused, table in rounds.items()}
    factors = {"invocations": len(rounds[False]) / len(rounds[True]), "bytes moved": moved[False] / moved[True],
               "seconds": ratio(*seconds.values()), "same final bytes": float(same)}
    return finish("fused", factors["invocations"], factors, seconds, experiment.threads,
                  notes=["of the clients in the second of three rounds, warm"])


@contextlib.contextmanager
def _store_for(experiment: Experiment) -> Iterator[Store]:
    with tempfile.TemporaryDirectory() as place:
        store = Store(place)
        runner.deploy(experiment, sets.prepare(experiment), store)
        yield store
