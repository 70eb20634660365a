"""Alternate the sides of a comparison, and what `kdlib bench` says of them."""

import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from tqdm.auto import tqdm

from kdlib.errors import KdlibError
from kdlib.machine import machine

TINY = 1 / 16  # the width of quick benches, which show that they run and nothing of speed
LONG = 60.0  # seconds of a side from which three pairs are enough
# A client's first Steps whose cold starts are measured, and the strategies that they are of: it predicts, or trains.
COLD = {"communicate": "fedmd", "train": "feddf"}


class Side(BaseModel):
    """Seconds of one side over the pairs: median, least and most; per_second: items at the median, where they count."""

    median: float
    low: float
    high: float
    per_second: float | None = None


class Bench(BaseModel):
    """What a bench found.

    ratio: the headline, how many times faster (or fewer); factors: what it is made of; extrapolated: side -> by which
    factor it was scaled up from what was run; sides: name -> seconds; facts: what else was measured, unit in the name.
    """

    name: str
    ratio: float
    factors: dict[str, float]
    pairs: int
    threads: int
    extrapolated: dict[str, float] = {}
    sides: dict[str, Side] = {}
    facts: dict[str, float] = {}
    notes: list[str] = []
    machine: dict[str, Any] = {}

    def text(self) -> str:
        """The same for a reader."""
        lines = [f"{self.name}: {self.ratio:.2f}x", f"{self.pairs} pairs, {self.threads} threads per Step"]
        for name, side in self.sides.items():
            rate = f", {side.per_second:,.0f} items/s" if side.per_second else ""
            lines.append(f"  {name:40} {side.median:9.3f} s ({side.low:.3f} to {side.high:.3f}){rate}")
        lines += [f"  {name:40} {factor:9.2f}x" for name, factor in self.factors.items()]
        lines += [f"  {name:40} {value:9.2f}" for name, value in self.facts.items()]
        lines += [f"  {name} was scaled up by {factor:g}" for name, factor in self.extrapolated.items()]
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


def workers(number: int) -> ProcessPoolExecutor:
    """So many new processes, in which nothing has been computed yet."""
    forking = multiprocessing.get_context("forkserver")  # which imports once what all of them need
    forking.set_forkserver_preload(["kdlib.paper.bench"])
    return ProcessPoolExecutor(number, mp_context=forking)


def load(folder: str | Path, name: str) -> Bench:
    """What `kdlib bench NAME --json` wrote to FOLDER/bench-NAME.json. Raises KdlibError where it is not there."""
    try:
        return Bench.model_validate_json((Path(folder) / f"bench-{name}.json").read_text())
    except OSError as error:
        raise KdlibError(f"{folder} has no bench-{name}.json; make it with `kdlib bench {name} --json > "
                         f"{folder}/bench-{name}.json`") from error


def alternate(sides: Mapping[str, Callable[[], object]], pairs: int, title: str = "") -> dict[str, list[float]]:
    """Seconds of each side, taken in turn `pairs` times after one call that does not count.

    A side that returns a number has timed itself. Where a side takes over a minute, its first call counts and three
    pairs are made, no more.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    first = {name: _timed(side) for name, side in sides.items()}
    if max(first.values()) > LONG:
        pairs = min(pairs, 3)
        seconds = {name: [value] for name, value in first.items()}
    for _ in tqdm(range(pairs - len(next(iter(seconds.values())))), desc=title, unit="pair", leave=False):
        for name, side in sides.items():
            seconds[name].append(_timed(side))
    return seconds


def side(seconds: list[float], items: int | None = None) -> Side:
    """The summary of one side; items: what it got done each time."""
    median = statistics.median(seconds)
    return Side(median=median, low=min(seconds), high=max(seconds), per_second=items / median if items else None)


def ratio(slow: list[float], fast: list[float]) -> float:
    """The median over the pairs of slow / fast."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def medians(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Of each side."""
    return {name: statistics.median(values) for name, values in seconds.items()}


def finish(name: str, ratio: float, factors: dict[str, float], seconds: dict[str, list[float]], threads: int,
           items: dict[str, int] | None = None, **more: Any) -> Bench:
    """Put a Bench together from the seconds of its sides."""
    return Bench(name=name, ratio=ratio, factors=factors, pairs=min(map(len, seconds.values())), threads=threads,
                 sides={label: side(values, (items or {}).get(label)) for label, values in seconds.items()},
                 machine=machine(), **more)


def _timed(call: Callable[[], object]) -> float:
    clock = time.perf_counter()
    own = call()
    return own if isinstance(own, float) else time.perf_counter() - clock
