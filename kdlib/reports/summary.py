"""A run at a glance, complete or on its way: accuracy, time and cost so far, as a page in a notebook or as text."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from kdlib.errors import KdlibError, extras
from kdlib.reports import cost
from kdlib.runs.run import Run, accuracy_by_architecture, load


class Summary(NamedTuple):
    """title: of the experiment; rounds: the last one that was evaluated, of how many; prices: whose.

    accuracy: of that round, architecture -> 0-1, with their mean; steps: step -> calls, seconds, MB in and out, usd,
    with their sum.
    """

    title: str
    rounds: str
    prices: str
    accuracy: pd.Series
    steps: pd.DataFrame

    def __repr__(self) -> str:
        return f"{self._head}\n\n{self.accuracy.round(3).to_string()}\n\n{self.steps.round(4).to_string()}"

    def _repr_html_(self) -> str:
        accuracy = self.accuracy.to_frame().T.to_html(float_format="{:.3f}".format, index=False)
        return f"<p><b>{self._head}</b></p>{accuracy}{self.steps.to_html(float_format='{:,.4g}'.format)}"

    @property
    def _head(self) -> str:
        whole = self.steps.loc["in all"]
        return (f"{self.title}: round {self.rounds}, accuracy {self.accuracy['mean']:.3f}, "
                f"{whole['seconds']:.1f} s in functions, {100 * whole['usd']:.3f} cents ({self.prices})")


def summary(run: Run | str | Path, prices: str | Path = "gcf") -> Summary:
    """The run, or the one in that folder, so far; prices: a table's name, or its file.

    Raises KdlibError where there is no such run or table, or nothing has been done yet.
    """
    the_run = run if isinstance(run, Run) else load(run)
    if not the_run.records():
        raise KdlibError(f"{the_run.folder} has no Step yet that is done")
    table = cost.load_prices(prices)
    bill = cost.bill(the_run, table)
    steps = bill.groupby("step", sort=False).agg(calls=("seconds", "size"), seconds=("seconds", "sum"),
                                                 mb_in=("bytes_in", "sum"), mb_out=("bytes_out", "sum"),
                                                 usd=("usd", "sum"))
    steps[["mb_in", "mb_out"]] /= 1e6
    steps.loc["in all"] = steps.sum()
    steps["calls"] = steps["calls"].astype(int)
    round_, accuracy = 0, pd.Series(dtype=float)
    curve = accuracy_by_architecture(the_run)
    if len(curve):
        round_ = curve["round"].max()
        accuracy = curve[curve["round"] == round_].set_index("architecture")["accuracy"]
    return Summary(the_run.experiment.title, f"{round_} of {the_run.experiment.rounds}", table.provider,
                   pd.concat([accuracy.rename_axis(None), pd.Series({"mean": accuracy.mean()})]), steps)


def live(prices: str | Path = "gcf") -> Callable[[Run], None]:
    """What shows a run's summary while it goes on: `kdlib.run(experiment, watch=kdlib.live())`.

    In a notebook one table below the cell that each round brings up to date; elsewhere each round prints its own.
    """
    with extras():
        from IPython.display import display  # only here: a command line has no use for it

    place = None

    def show(run: Run) -> None:
        nonlocal place
        if place is None:
            place = display(summary(run, prices), display_id=True)  # no place outside a notebook
        else:
            place.update(summary(run, prices))

    return show
