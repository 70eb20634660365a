"""The local engine against a plain loop, and what Lightning, the Store and Ray add to it."""

import contextlib
import functools
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

import torch
import torch.nn.functional as F

from kdlib.data import sets
from kdlib.invoke.invokers import Base, Inline
from kdlib.invoke.perform import perform
from kdlib.invoke.steps import Step
from kdlib.learning import client
from kdlib.learning.engine import Batches, expect_device, predict
from kdlib.learning.models import penalty, start
from kdlib.paper.bench import plain
from kdlib.paper.bench.measure import TINY, Bench, alternate, finish, ratio, workers
from kdlib.runs import runner
from kdlib.settings.experiment import Experiment, make_experiment
from kdlib.store.store import Store
from kdlib.strategies.alone import Alone

HEADLINE = "cnn2-128-256"
BATCH = {"image": 128, "text": 32}  # items of one
THREADS = {"image": 2, "text": 1}  # an LSTM's products are too small to share: on two threads bf16 is slower
# Of a side: seconds of work, or what a fit takes to start would be in the ratio of the networks that need least.
ITEMS = {"train": {"image": 512, "text": 4096}, "predict": {"image": 1024, "text": 1024}}

# Images a second of the plain loop on the headline's CNN, 2 threads, on a machine with AMX: what ours is held against.
PLAIN_ELSEWHERE = {"train": (139, 158), "predict": (503, 577)}


def bench_train(pairs: int, quick: bool, device: str = "cpu", width: float = 1.0, batch: int | None = None) -> Bench:
    """Training items a second, plain against engine, for each architecture of both zoos at `width`.

    batch: items of one; default: 128 images, 32 texts.
    """
    return _plain_against_engine("train", pairs, quick, device, width, batch)


def bench_predict(pairs: int, quick: bool, device: str = "cpu", width: float = 1.0, batch: int | None = None) -> Bench:
    """Prediction likewise; the batch is the plain side's."""
    return _plain_against_engine("predict", pairs, quick, device, width, batch)


def _plain_against_engine(name: str, pairs: int, quick: bool, device: str, width: float, batch: int | None) -> Bench:
    expect_device(device)
    width = TINY if quick else width
    sizes = dict.fromkeys(BATCH, batch) if batch else BATCH
    images, texts = (make_experiment(task, "feddf", profile="paper", threads=THREADS[kind], precision="auto",
                                     device=device, width=width)
                     for task, kind in (("digits", "image"), ("shakespeare", "text")))
    seconds: dict[str, list[float]] = {}
    factors: dict[str, float] = {}
    done: dict[str, int] = {}
    # Two processes: what the engine asks of the allocator must not help the plain side.
    with workers(1) as plain_worker, workers(1) as engine_worker:
        for experiment, architecture in [(each, name) for each in (images, texts) for name in each.architectures]:
            size = sizes[experiment.task.items]
            # A narrow network does more in the same time; whole batches, so that both sides do the same.
            full = ITEMS[name][experiment.task.items] / size / width**0.5
            items = size * (1 if quick else max(1, round(full)))
            arguments = experiment, architecture, items, size
            sides = {f"{architecture} {way}": functools.partial(_in, pool, _seconds, name, way, *arguments)
                     for way, pool in (("plain", plain_worker), ("engine", engine_worker))}
            found = alternate(sides, pairs, architecture)
            factors[architecture] = ratio(*found.values())
            seconds |= found
            done |= dict.fromkeys(found, items)
    bench = finish(name, factors[HEADLINE], factors, seconds, images.threads, done)
    low, high = PLAIN_ELSEWHERE[name]
    rate = bench.sides[f"{HEADLINE} plain"].per_second
    assert rate is not None  # `done` has it
    bench.notes = [f"on {device}, width x {width:g}; engine in {images.precision}; digits in batches of "
                   f"{sizes['image']}, windows of random characters in batches of {sizes['text']}, those on "
                   f"{texts.threads} thread"]
    if width == 1 and not batch and not 0.8 * low <= rate <= 1.2 * high:
        bench.notes.append(f"the plain side's {rate:.0f} images/s are not the {low}-{high} measured elsewhere: another "
                           f"CPU than there ({bench.machine['cpu']}, {bench.machine['cores']} cores), or a busy one; "
                           "the ratio compares both sides as they were here")
    return bench


def _in(pool: Executor, function: Callable[..., float], *arguments: Any) -> float:
    return pool.submit(function, *arguments).result()


def _seconds(name: str, way: str, experiment: Experiment, architecture: str, items: int, batch: int) -> float:
    """In a worker: how long one side takes for so many items."""
    torch.set_num_threads(experiment.threads)
    if experiment.task.items == "text":  # the time is the same whatever the characters are, and so no data are needed
        generator = torch.Generator().manual_seed(0)
        x = torch.randint(experiment.classes, (items, *experiment.task.shape), generator=generator)
        y = torch.randint(experiment.classes, (items,), generator=generator)
    else:
        drawn = sets.prepare(experiment)
        times = -(-items // len(drawn.private.y))
        x = torch.from_numpy(drawn.private.x).repeat(times, 1, 1)[:items]
        y = torch.from_numpy(drawn.private.y).repeat(times)[:items]
    side: Callable[[], object]
    if way == "plain":
        bare = plain.model(experiment, architecture)
        side = {"train": lambda: plain.train(experiment, bare, x, y, batch, items // batch),
                "predict": lambda: plain.predict(bare, x, batch)}[name]
    else:
        model = start(experiment, architecture)
        side = {"train": lambda: client.fit(experiment, model, Batches(experiment, x, y, batch, 0), F.cross_entropy,
                                            epochs=1),
                "predict": lambda: predict(experiment, model, x)}[name]
    clock = time.perf_counter()
    side()
    if experiment.device == "cuda":
        torch.cuda.synchronize()  # what was asked of it may not be done yet
    return time.perf_counter() - clock


def bench_overhead(pairs: int, quick: bool) -> Bench:
    """A client's training through Lightning and Store against the same loop bare; Ray against two plain processes.

    ratio: the first with the paper's widths, 1.0 being no overhead; what is added to a batch is the same for narrow
    networks and weighs more there. The plain processes divide the same Steps evenly, without Ray.
    facts: milliseconds that a Step of a fifth of a second costs beside its work, by each Invoker of this machine.
    """
    from kdlib.invoke.processes import Processes
    from kdlib.invoke.ray import Ray

    one = Step("train", 1, "client-0000")
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as place:
        for width, name in ((TINY if quick else 1, ""), (0.25, ", width x 0.25")):
            experiment, store = _deployed(f"{place}/{width}", width, 0.2 if quick else 2.2)
            # Three times the pairs: a few hundredths are looked for, and a machine that others use drifts by more.
            seconds |= alternate({f"bare{name}": functools.partial(_bare, experiment, store),
                                  f"kdlib{name}": functools.partial(_half, (experiment, store.url, [one]))},
                                 3 * pairs, "kdlib")
        steps, images = [one] * (4 if quick else 6), len(store.get("private/client-0000/data")["y"])
        invoker = Ray(workers=2)
        with workers(2) as pool:
            halves = [(experiment, store.url, steps[0::2]), (experiment, store.url, steps[1::2])]
            list(pool.map(_half, halves))  # start-up apart, for both
            list(invoker.run("bench", experiment, store, steps))
            seconds |= alternate({
                "two processes": lambda: list(pool.map(_half, halves)),
                "ray": lambda: list(invoker.run("bench", experiment, store, steps)),
                "inline": lambda: [perform(experiment, store, step) for step in steps]}, pairs, "ray")
        invoker.close()
        short, store = _deployed(f"{place}/short", TINY, 0.2)
        facts = {f"{each.name}: ms beside a Step of 0.2 s": _beside(each, short, store, one, pairs)
                 for each in (Inline(), Processes(workers=1), Ray(workers=1))}
    factors = {"kdlib over bare": ratio(seconds["kdlib"], seconds["bare"]),
               "kdlib over bare, width x 0.25": ratio(seconds["kdlib, width x 0.25"], seconds["bare, width x 0.25"]),
               "ray over two processes": ratio(seconds["ray"], seconds["two processes"]),
               "inline over ray": ratio(seconds["inline"], seconds["ray"])}
    trained = images * experiment.local_epochs
    items = dict.fromkeys(("two processes", "ray", "inline"), len(steps) * trained)
    return finish("overhead", factors["kdlib over bare"], factors, seconds, experiment.threads, items, facts=facts)


def _beside(invoker: Base, experiment: Experiment, store: Store, step: Step, pairs: int) -> float:
    """Milliseconds a Step, of ten that follow one another, beyond those in their Records; start-up apart."""
    with contextlib.closing(invoker):
        taken = []
        for _ in range(1 + pairs):
            clock = time.perf_counter()
            records = list(invoker.run("bench", experiment, store, [step] * 10))
            taken.append(time.perf_counter() - clock - sum(record.seconds for record in records))
    return 1e3 * statistics.median(taken[1:]) / 10


def _deployed(place: str, width: float, seconds: float) -> tuple[Alone, Store]:
    """An experiment whose client trains for `seconds` or longer, and the store that it works on."""
    kept = Store(place)
    settings: dict[str, Any] = {"clients": 6, "samples": None, "width": width}
    probe = make_experiment("digits", "alone", 100, **settings, local_epochs=1)
    assert isinstance(probe, Alone)
    runner.deploy(probe, sets.prepare(probe), kept)
    fastest = min(alternate({"an epoch": lambda: _bare(probe, kept)}, 5)["an epoch"])
    epochs = math.ceil(seconds / fastest)
    return probe.model_copy(update={"local_epochs": epochs}), kept


def _bare(experiment: Alone, store: Store) -> None:
    """What `alone.train` does, as a bare loop: the same model, batches and Adam."""
    torch.set_num_threads(experiment.threads)
    own = store.get("private/client-0000/data")
    model = start(experiment, "client-0000").train()
    optimizer = torch.optim.Adam(model.parameters(), lr=experiment.learning_rate, eps=1e-7, fused=True)
    batches = Batches(experiment, own["x"], own["y"], experiment.batch, 0)
    for _ in range(experiment.local_epochs):
        for x, y in batches:
            optimizer.zero_grad()
            (F.cross_entropy(model(x), y) + penalty(model)).backward()
            optimizer.step()


def _half(work: tuple[Experiment, str, list[Step]]) -> None:
    experiment, url, steps = work
    store = Store(url)
    for step in steps:
        perform(experiment, store, step)
