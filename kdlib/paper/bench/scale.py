"""FedMD at 10 to 1,000 clients: seconds a round, memory of the driving process, size of the store."""

import functools
import resource
import tempfile

import numpy as np

from kdlib.paper.bench.measure import Bench, alternate, finish, workers
from kdlib.runs import runner
from kdlib.runs.invokers import INLINE
from kdlib.settings.experiment import make_experiment

CLIENTS = (10, 30, 100, 300, 1000)
QUICK = (3, 6)


def bench_scale(pairs: int, quick: bool) -> Bench:
    """A round at tiny width, each number of clients in a process of its own; MNIST, 50 images a client.

    ratio: how far a round is off the line a + b x clients that fits best, at most, relatively; 1.0 is on it.
    """
    sizes = QUICK if quick else CLIENTS
    facts: dict[int, tuple[float, float]] = {}

    def side(clients: int) -> float:
        # The peak of a process never falls, so each size has a new one.
        with workers(1) as pool:
            took, facts[clients] = pool.submit(_round, clients).result()
        return took

    sides = {f"{clients} clients": functools.partial(side, clients) for clients in sizes}
    seconds = alternate(sides, pairs, "scale")
    bench = finish("scale", 1.0, {}, seconds, 1)
    medians = np.array([bench.sides[f"{clients} clients"].median for clients in sizes])
    line = np.polyval(np.polyfit(sizes, medians, 1, w=1 / medians), sizes)
    bench.factors = dict(zip(seconds, (medians / line).tolist(), strict=True))
    bench.ratio = float(np.maximum(medians / line, line / medians).max())
    each = dict(zip(sizes, medians / sizes, strict=True))
    for clients, (memory, stored) in facts.items():
        bench.facts |= {f"{clients} clients: ms a client and round": 1e3 * each[clients],
                        f"{clients} clients: peak memory, GiB": memory, f"{clients} clients: store, MiB": stored}
    bench.notes = ["FedMD, the first round, after transfer; width 1/16, 50 images a client, one process, one thread"]
    return bench


def _round(clients: int) -> tuple[float, tuple[float, float]]:
    experiment = make_experiment("mnist", "fedmd", 100, profile="smoke", clients=clients, samples=50, rounds=1,
                                 pretrain_epochs=1, transfer_epochs=1, test_items=100, alignment_items=128)
    with tempfile.TemporaryDirectory() as place:
        made = runner.run(experiment, place, progress=False, invoker=INLINE)
        steps = made.table.query("round == 1")
        last = steps.iloc[-1]
        stored = sum(file.stat().st_size for file in (made.folder / "store").rglob("*") if file.is_file())
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        return float(last["started"] + last["seconds"] - steps["started"].min()), (memory, stored / 2**20)
