"""Runs beside each other: in which settings they differ, what they reached, how long they took, what they cost."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from kdlib.errors import KdlibError
from kdlib.reports import cost, times
from kdlib.reports.cost import PAPER, Limits, Prices
from kdlib.runs.run import Run, load


def compare(runs: Sequence[Run | str | Path], prices: str | Path | Prices = "gcf",
            limits: Mapping[str, Limits] = PAPER) -> pd.DataFrame:
    """A row a complete run, by its key: the settings that are not the same in all of them, then what came of it.

    runs: Runs, or their folders. accuracy: final mean over architectures, 0-1; measured and modelled: seconds of the
    run, see kdlib.reports.times; usd: by `prices`, a table's name, its file or the table itself, with functions of
    the sizes `limits`. A setting that a strategy has not is NaN. Raises KdlibError for a run that is not complete.
    """
    made = [one if isinstance(one, Run) else load(one) for one in runs]
    if not made:
        raise KdlibError("there is nothing to compare; allowed: at least one run")
    results = [one.final for one in made]
    table = prices if isinstance(prices, Prices) else cost.load_prices(prices)
    settings = pd.DataFrame([_flat(one) for one in made])
    differ = [name for name in settings if settings[name].map(repr).nunique() > 1]
    reached = [{"accuracy": result["accuracy"]} | times.rounds(one)[["modelled", "measured"]].sum().to_dict()
               | {"usd": float(cost.total(one, table, limits))} for one, result in zip(made, results, strict=True)]
    beside = settings[differ].join(pd.DataFrame(reached))
    return beside.set_axis(pd.Index([one.key for one in made], name="run"))  # last: one key may stand there twice


def _flat(the_run: Run) -> dict:
    """The settings, a task by its name alone and whether rounds were fused beside them."""
    settings = the_run.experiment.model_dump(mode="json")
    return settings | {"strategy": times.label(the_run), "task": the_run.experiment.task.name}
