"""Runs, and tables of what they reached: curves, and intervals over seeds."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from kdlib.errors import KdlibError
from kdlib.runs.run import Run, accuracy_by_architecture, load
from kdlib.settings.experiment import Experiment

log = logging.getLogger("kdlib")


def complete(runs: str | Path) -> list[Run]:
    """All complete runs in the folder `runs`, sorted by key; one that cannot be read here is left out, and told."""
    found = []
    for path in sorted(Path(runs).glob("*/experiment.json")):
        try:
            one = load(path.parent)
            found += [one] if one.result is not None else []
        except KdlibError as error:  # such as one of a network or strategy that only its notebook knows
            log.warning("kdlib: %s is left out: %s", path.parent, error)
    return found


def find(runs: str | Path, experiments: Sequence[Experiment]) -> list[Run]:
    """The complete run of each experiment, in their order, from the folder `runs`.

    Raises KdlibError, with the command that makes them, where some are missing.
    """
    found = {one.experiment.model_dump_json(): one for one in complete(runs)}
    missing = [one for one in experiments if one.model_dump_json() not in found]
    if missing:
        first = missing[0]
        raise KdlibError(f"{len(missing)} of {len(experiments)} runs are not in {runs} or not complete, the first "
                         f"being {first.title}; "
                         f"make them with `kdlib reproduce --task {first.task.name} ...`")
    return [found[one.model_dump_json()] for one in experiments]


def curves(runs: Iterable[Run], **labels: Any) -> pd.DataFrame:
    """strategy, alpha (see Experiment.mix), seed, round, architecture, accuracy (0-1) of the runs, the labels given."""
    return pd.concat([accuracy_by_architecture(one).assign(strategy=one.experiment.strategy,
                                                           alpha=one.experiment.mix, seed=one.experiment.seed,
                                                           **labels) for one in runs], ignore_index=True)


def interval(values: Sequence[float]) -> float:
    """Half of Student's 95 % interval of the mean; NaN for a single value, which has none."""
    if len(values) < 2:
        return np.nan
    return float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))


def over_seeds(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """`by`, mean, half (of the 95 % interval) and seeds, of accuracy."""
    return table.groupby(by, as_index=False, sort=False).agg(
        mean=("accuracy", "mean"), half=("accuracy", interval), seeds=("accuracy", "size"))


def final_table(table: pd.DataFrame) -> pd.DataFrame:
    """Accuracy after the last round, mean over architectures: strategy, alpha, mean, half, seeds."""
    last = table[table["round"] == table["round"].max()]
    per_seed = last.groupby(["strategy", "alpha", "seed"], as_index=False, sort=False)["accuracy"].mean()
    return over_seeds(per_seed, ["strategy", "alpha"])
