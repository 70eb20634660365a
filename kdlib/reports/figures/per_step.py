"""Seconds and USD by step, the strategies beside each other."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdlib.reports.figures.style import mixed
from kdlib.reports.figures.style import title as called


def time_per_step(table: pd.DataFrame, title: str) -> Figure:
    """A panel a strategy, a bar a step and alpha: seconds of all its invocations in one run.

    table: kdlib.reports.times.per_step. Solid is time in the function, pale what was around it.
    """
    figure, axes = _panels(table)
    for axis, (strategy, rows) in zip(axes, table.groupby("strategy", sort=False), strict=True):
        rows = rows.assign(hue=[mixed(alpha) for alpha in rows["alpha"]],
                           told=[f"{calls:.0f} x {seconds:.3g} s" for calls, seconds in
                                 zip(rows["calls"], rows["seconds"], strict=True)])
        _bars(axis, rows, "total", "total_around")
        axis.set(title=called(str(strategy)), xlabel="seconds of one run")
    return _dressed(figure, axes, title)


def cost_per_step(table: pd.DataFrame, title: str) -> Figure:
    """A panel a strategy, a bar a step and price table: US cents of all its invocations in one run.

    table: strategy, step, prices (the name of the table), usd.
    """
    figure, axes = _panels(table)
    for axis, (strategy, rows) in zip(axes, table.groupby("strategy", sort=False), strict=True):
        rows = rows.assign(cents=100 * rows["usd"], hue=rows["prices"])
        sums = rows.groupby("prices", sort=False)["cents"].sum()
        _bars(axis, rows.assign(told=[f"{cents:.2g}" for cents in rows["cents"]]), "cents")
        axis.set_title(f"{called(str(strategy))}\n" + ", ".join(f"{name} {cents:.2g}" for name, cents in sums.items()),
                       fontsize=9)
        axis.set_xlabel("US cents of one run")
    return _dressed(figure, axes, title)


def _panels(table: pd.DataFrame) -> tuple[Figure, Sequence[Axes]]:
    panels = table["strategy"].nunique()
    most = table.groupby("strategy")["step"].nunique().max()
    figure, axes = plt.subplots(1, panels, figsize=(4.2 * panels, 0.6 * most + 1.8), sharex=True, squeeze=False,
                                layout="constrained")
    for axis in axes[0]:
        axis.set_ylim(most - 0.5, -0.5)  # bars are equally thick in all panels
    return figure, axes[0]


def _bars(axis: Axes, rows: pd.DataFrame, value: str, more: str | None = None) -> None:
    steps, hues = list(dict.fromkeys(rows["step"])), list(dict.fromkeys(rows["hue"]))
    height = 0.8 / len(hues)
    for index, (hue, shade) in enumerate(zip(hues, sns.color_palette("colorblind", len(hues)), strict=True)):
        cell = rows[rows["hue"] == hue]
        at = [steps.index(step) + (index - (len(hues) - 1) / 2) * height for step in cell["step"]]
        axis.barh(at, cell[value], height, color=shade, label=hue)
        ends = cell[value] + (cell[more] if more else 0)
        if more:
            axis.barh(at, cell[more], height, left=cell[value], color=shade, alpha=0.35)
        for place, end, told in zip(at, ends, cell["told"], strict=True):
            axis.annotate(told, (end, place), (3, 0), textcoords="offset points", va="center", fontsize=7)
    axis.set_yticks(range(len(steps)), [step.replace("+", "+\n").replace(">", ">\n") for step in steps],
                    fontsize=7 if any("+" in step for step in steps) else 9)


def _dressed(figure: Figure, axes: Sequence[Axes], title: str) -> Figure:
    axes[0].set_xlim(right=axes[0].get_xlim()[1] * 1.32)  # room for what is written at the longest bar
    for axis in axes:
        axis.grid(axis="x", alpha=0.3)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=11)
    return figure
