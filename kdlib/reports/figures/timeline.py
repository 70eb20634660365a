"""One real round from its records: who ran when, for how long, and what moved, in the lanes of a sequence diagram."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from kdlib.invoke.strategy import Strategy, strategy_of
from kdlib.reports.figures.style import colour
from kdlib.reports.times import invoker
from kdlib.runs.run import Run

LANES = {"worker": "workers", "client": "client\nfunctions", "aggregator": "aggregator\nfunctions"}
LARGEST = 160  # points squared: the marker of the most bytes that one invocation moved


def timeline(the_run: Run, round_: int, title: str) -> Figure:
    """Every invocation of the round as a bar in its subject's row; x is seconds since the first one began.

    The controller's lane has the stages, from their first start to their last end. The store's has what each
    invocation read (drawn where it begins) and wrote (where it ends), area being bytes.
    """
    table = the_run.table.query("round == @round_").sort_values("started")
    strategy = strategy_of(the_run.experiment)
    table = table.assign(lane=list(map(strategy.carrier, table["step"], table["subject"])),
                         start=table["started"] - table["started"].min())
    table["end"] = table["start"] + table["seconds"]
    rows = _rows(table)
    figure, axis = plt.subplots(figsize=(11, 2.6 + 0.19 * max(rows.values())), layout="constrained")
    for step, cell in table.groupby("step", sort=False):
        shade = colour(strategy, str(step))
        axis.barh(0, cell["end"].max() - cell["start"].min(), 0.8, left=cell["start"].min(), color=shade)
        axis.barh([rows[one] for one in cell["subject"]], cell["seconds"], 0.8, left=cell["start"], color=shade)
        axis.barh([rows[one] for one in cell["subject"]], cell["around"], 0.8, left=cell["end"], color=shade, alpha=0.3)
    _moved(axis, table, rows, strategy)
    _lanes(axis, table, rows)
    axis.set(xlabel=f"seconds since the round began ({invoker([the_run])})", xlim=(0, None))
    figure.legend(handles=[Patch(color=colour(strategy, str(step)), label=_told(str(step), cell))
                           for step, cell in table.groupby("step", sort=False)],
                  loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=11)
    return figure


def _rows(table: pd.DataFrame) -> dict[str, float]:
    """subject -> its y: 0 is the controller's row and 1.5 the store's, the others come lane by lane below."""
    rows, y = {}, 3.0
    for lane in LANES:
        subjects = sorted(table.loc[table["lane"] == lane, "subject"].unique())
        for subject in subjects:
            rows[subject] = y
            y += 1
        y += 0.8 * bool(subjects)
    return rows


def _moved(axis: Axes, table: pd.DataFrame, rows: dict[str, float], strategy: Strategy) -> None:
    most = max(table[["bytes_in", "bytes_out"]].max())
    for name, at, marker, y in (("bytes_in", "start", "v", 1.25), ("bytes_out", "end", "^", 1.85)):
        some = table[table[name] > 0]
        axis.scatter(some[at], np.full(len(some), y), LARGEST * some[name] / max(most, 1), marker=marker, alpha=0.6,
                     color=[colour(strategy, step) for step in some["step"]], linewidth=0)


def _lanes(axis: Axes, table: pd.DataFrame, rows: dict[str, float]) -> None:
    ticks = {0: "controller", 1.5: "store (read,\nwritten)"}
    for lane, name in LANES.items():
        of_lane = [rows[subject] for subject in set(table.loc[table["lane"] == lane, "subject"])]
        if of_lane:
            ticks[(min(of_lane) + max(of_lane)) / 2] = name
            axis.axhline(min(of_lane) - 0.9, color="0.8", linewidth=0.8)
    axis.axhline(0.7, color="0.8", linewidth=0.8)
    axis.set(yticks=list(ticks), yticklabels=list(ticks.values()))
    axis.set_ylim(max([*rows.values(), 2.0]) + 0.8, -0.8)


def _told(step: str, cell: pd.DataFrame) -> str:
    read, written = (cell[name].sum() / 1e6 for name in ("bytes_in", "bytes_out"))
    cold = f", {cell['cold'].sum()} cold" if cell["cold"].any() else ""
    return (f"{step}: {len(cell)} x {cell['seconds'].mean():.3g} s{cold}, {read:.3g} MB read, {written:.3g} MB "
            "written")
