"""FedMD at 100 to 10,000 clients: seconds a client and round, memory of the driving process, size of the store."""

import resource
import tempfile
import time
from pathlib import Path
from typing import Any

from kdlib.data import sets
from kdlib.data.partition import partition
from kdlib.invoke.invokers import Inline
from kdlib.invoke.strategy import strategy_of
from kdlib.paper.bench.measure import Bench, finish, workers
from kdlib.runs import runner
from kdlib.runs.driver import sweep
from kdlib.settings.experiment import make_experiment

CLIENTS = (100, 1000, 10_000)
QUICK = (3, 6)
# A few items each, as 10,000 clients share what there is: what grows with their number is not hidden behind training.
FEW: dict[str, Any] = {"profile": "smoke", "samples": 5, "rounds": 1, "pretrain_epochs": 1, "transfer_epochs": 1,
                       "test_items": 32, "alignment_items": 32, "public_items": 100,
                       "architectures": ("cnn2-128-256", "cnn3-64-128-256", "cnn4-64-64-64-256")}


def bench_scale(pairs: int, quick: bool) -> Bench:
    """A round at tiny width, each number of clients in a process of its own, once; MNIST, 5 images a client.

    ratio: seconds a client and round, the most over the least; 1.0 is as it should be. A round's seconds are a sum over
    its clients, so they are not taken again.
    """
    seconds: dict[str, list[float]] = {}
    facts: dict[str, float] = {}
    each: dict[str, float] = {}
    for clients in QUICK if quick else CLIENTS:
        name = f"{clients} clients"
        with workers(1) as pool:  # the peak of a process never falls, so each size has a new one
            took, found = pool.submit(_round, clients).result()
        seconds[name], each[name] = [took], took / clients
        facts |= {f"{name}: ms a client and round": 1e3 * each[name]}
        facts |= {f"{name}: {fact}": value for fact, value in found.items()}
    least = min(each.values())
    bench = finish("scale", max(each.values()) / least, {name: value / least for name, value in each.items()},
                   seconds, 1, facts=facts)
    bench.notes = ["FedMD, the first round, after transfer; width 1/16, 5 images a client, one process, one thread"]
    return bench


def _round(clients: int) -> tuple[float, dict[str, float]]:
    experiment = make_experiment("mnist", "fedmd", 100, clients=clients, **FEW)
    clock = time.perf_counter()
    drawn = sets.prepare(experiment)
    partition(experiment, drawn.private.y)
    facts = {"partition, s": time.perf_counter() - clock}
    with tempfile.TemporaryDirectory() as place:
        made = runner.run(experiment, place, progress=False, invoker=Inline())
        facts["peak memory, GiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        steps = made.table.query("round == 1")
        last = steps.iloc[-1]
        took = float(last["started"] + last["seconds"] - steps["started"].min())
        files = [file.stat().st_size for file in Path(made.folder, "store").rglob("*") if file.is_file()]
        clock = time.perf_counter()
        names = made.store.names()
        facts["ms to list a thousand objects"] = 1e6 * (time.perf_counter() - clock) / len(names)
        clock = time.perf_counter()
        sweep(made.store, strategy_of(experiment), 2)
        facts["ms to sweep a thousand objects"] = 1e6 * (time.perf_counter() - clock) / len(names)
    return took, facts | {"store, MiB": sum(files) / 2**20}
