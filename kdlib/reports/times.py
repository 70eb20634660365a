"""Where the time goes, from Records: per step and per round, what moved, and what it takes to reach an accuracy.

Two times of a round are kept apart by their names. `measured` is the wall clock of the machine that ran it. `modelled`
is what functions that all run side by side would take: the longest of each stage, summed over the round's stages.
"""

from collections.abc import Mapping, Sequence

import pandas as pd

from kdlib.errors import KdlibError
from kdlib.invoke.strategy import strategy_of
from kdlib.reports import cost
from kdlib.reports.cost import PAPER, Limits, Prices
from kdlib.runs.run import Run, accuracy_by_architecture, busy_seconds

SETUP = ["task", "strategy", "alpha"]


def invoker(runs: Sequence[Run]) -> str:
    """The one invoker of all their functions, for a caption; and that of the workers' Steps where it is another.

    Raises KdlibError where two were mixed, whose times cannot be compared.
    """
    names: dict[bool, set[str]] = {True: set(), False: set()}
    for one in runs:
        strategy = strategy_of(one.experiment)
        for record in one.records():
            names[strategy.carrier(record.step, record.subject) == "worker"].add(record.backend)
    for found in names.values():
        if len(found) > 1:
            raise KdlibError(f"times of {' and '.join(sorted(found))} cannot be mixed; allowed: runs by one invoker")
    functions, workers = names[False] or names[True], names[True] or names[False]
    return " ".join(functions) + (f", Steps of workers by {' '.join(workers)}" if workers != functions else "")


def label(the_run: Run) -> str:
    """The strategy's name, with `fused` where its Steps were."""
    fused = any(len(record.parts) > 1 for record in the_run.records())
    return the_run.experiment.strategy + " fused" * fused


def invocations(runs: Sequence[Run]) -> pd.DataFrame:
    """`Run.table` of all of them, a row an invocation, with task, strategy (see `label`), alpha and seed.

    Raises KdlibError for two invokers.
    """
    invoker(runs)
    return pd.concat([one.table.assign(task=one.experiment.task.name, strategy=label(one), alpha=one.experiment.mix,
                                       seed=one.experiment.seed) for one in runs], ignore_index=True)


def per_step(runs: Sequence[Run]) -> pd.DataFrame:
    """task, strategy, alpha, step: calls, cold (starts), mean seconds in a function and around it, and their sums.

    calls, cold, total, total_around: of one run, the mean over seeds; longest: seconds in a function, of all calls.
    """
    table = invocations(runs)
    seeds = table.groupby(SETUP)["seed"].nunique().rename("seeds")
    steps = table.groupby([*SETUP, "step"], sort=False).agg(
        calls=("seconds", "size"), cold=("cold", "sum"), seconds=("seconds", "mean"), around=("around", "mean"),
        longest=("seconds", "max"), total=("seconds", "sum"), total_around=("around", "sum")).reset_index()
    steps = steps.merge(seeds, on=SETUP)
    for name in ("calls", "cold", "total", "total_around"):
        steps[name] = steps[name] / steps["seeds"]
    return steps


def moved(runs: Sequence[Run]) -> pd.DataFrame:
    """task, strategy, alpha, step: bytes_in and bytes_out of one run, the mean over seeds."""
    table = invocations(runs)
    per_run = table.groupby([*SETUP, "seed", "step"], sort=False)[["bytes_in", "bytes_out"]].sum().reset_index()
    return per_run.groupby([*SETUP, "step"], sort=False)[["bytes_in", "bytes_out"]].mean().reset_index()


def rounds(the_run: Run, prices: Prices | None = None, limits: Mapping[str, Limits] = PAPER) -> pd.DataFrame:
    """A row a round, 0 being all before the first: seconds modelled and measured, accuracy, and usd where prices are.

    accuracy: mean over architectures; NaN where a round has none. What a fused invocation does of the next round is
    counted in the round that it was called in. Slow-downs that an Experiment models are not in these times: they are
    of what really ran.
    """
    records = the_run.records()
    table = the_run.table
    stages = table.groupby(["round", "step"])["seconds"].max()
    measured = {round_: busy_seconds([record for record in records if record.round == round_])
                for round_ in sorted(set(table["round"]))}
    accuracy = accuracy_by_architecture(the_run).groupby("round")["accuracy"].mean()
    frame = pd.DataFrame({"modelled": stages.groupby("round").sum(), "measured": pd.Series(measured)})
    frame = frame.join(accuracy)
    if prices is not None:
        frame["usd"] = cost.bill(the_run, prices, limits).groupby("round")["usd"].sum()
    return frame.rename_axis("round").reset_index()


def reachable(runs: Sequence[Run]) -> float:
    """The accuracy (0-1) that every run's mean over architectures reaches, rounded down to a twentieth."""
    return int(20 * min(rounds(one)["accuracy"].max() for one in runs)) / 20


def to_reach(runs: Sequence[Run], accuracy: float, prices: Prices | None = None,
             limits: Mapping[str, Limits] = PAPER) -> pd.DataFrame:
    """What each run took until its mean accuracy (0-1) first was at least `accuracy`.

    task, strategy, alpha, seed, round, modelled and measured seconds, and usd where prices are; those NaN where it
    never was.
    Raises KdlibError for two invokers.
    """
    invoker(runs)
    rows, spent = [], ["modelled", "measured"] + ["usd"] * (prices is not None)
    for one in runs:
        so_far = rounds(one, prices, limits)
        sums = so_far[spent].cumsum().assign(round=so_far["round"])
        there = sums[so_far["accuracy"] >= accuracy]
        found = there.iloc[0].to_dict() if len(there) else dict.fromkeys(sums, float("nan"))
        rows.append({"task": one.experiment.task.name, "strategy": label(one), "alpha": one.experiment.mix,
                     "seed": one.experiment.seed} | found)
    return pd.DataFrame(rows)[[*SETUP, "seed", "round", *spent]]


__all__ = ["invocations", "invoker", "label", "moved", "per_step", "reachable", "rounds", "to_reach"]
