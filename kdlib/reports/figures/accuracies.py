"""Accuracy by round: the paper's figure, the strategies beside each other, the artefact's faults."""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from kdlib.reports.figures.style import RGB, in_order, looks, mixed
from kdlib.reports.figures.style import title as called
from kdlib.reports.figures.tables import over_seeds
from kdlib.settings.architectures import sized

PUBLISHED = "published (Chadha et al., 2024), dashed"
LEAST_WIDTH = 8.4  # inches, which the title and the legend need


def accuracy(table: pd.DataFrame, paper: pd.DataFrame, title: str) -> Figure:
    """The paper's accuracy figure: a row an alpha, a column a strategy, a line an architecture.

    Ours solid, mean over seeds in Student's 95 % interval; the published curve dashed in the same colour behind it.
    """
    architectures = list(dict.fromkeys(table["architecture"]))
    architectures.sort(key=sized)
    colours = dict(zip(architectures, sns.color_palette("colorblind", len(architectures)), strict=True))
    alphas, strategies = _in_order(table)
    width = max(LEAST_WIDTH, 3.4 * len(strategies))
    figure, axes = plt.subplots(len(alphas), len(strategies), figsize=(width, 2.9 * len(alphas) + 1.1),
                                sharex=True, sharey=True, squeeze=False, layout="constrained")
    for (alpha, strategy), axis in zip(((a, s) for a in alphas for s in strategies), axes.flat, strict=True):
        cell = table.query("alpha == @alpha and strategy == @strategy")
        theirs = paper.query("alpha == @alpha and strategy == @strategy")
        for model, architecture in enumerate(architectures):
            line = theirs[theirs["model"] == model]
            axis.plot(line["round"], line["accuracy"], "--", color=colours[architecture], linewidth=1, alpha=0.7)
            _band(axis, cell[cell["architecture"] == architecture], colours[architecture])
        axis.set(title=f"{called(strategy)}, {mixed(alpha)}", ylim=(0, 1))
        axis.grid(alpha=0.3)
    handles = [Line2D([], [], color=colours[name], label=f"{model}: {name}")
               for model, name in enumerate(architectures)]
    handles.append(Line2D([], [], color="black", label=_ours(table)))
    if not paper.empty:
        handles.append(Line2D([], [], color="black", linestyle="--", linewidth=1, label=PUBLISHED))
    return _dressed(figure, handles, title, ncols=4)


def comparison(table: pd.DataFrame, title: str) -> Figure:
    """The strategies beside each other: a panel an alpha, a line a strategy, the mean over architectures."""
    alphas, strategies = _in_order(table)
    width = max(LEAST_WIDTH, 4.2 * len(alphas))
    figure, axes = plt.subplots(1, len(alphas), figsize=(width, 4.3), sharey=True, squeeze=False, layout="constrained")
    styles = looks(strategies)
    means = _mean_of_architectures(table)
    for alpha, axis in zip(alphas, axes.flat, strict=True):
        for strategy in strategies:
            colour, style = styles[strategy]
            _band(axis, means.query("alpha == @alpha and strategy == @strategy"), colour, style)
        axis.set(title=mixed(alpha), ylim=(0, 1))
        axis.grid(alpha=0.3)
    handles = [Line2D([], [], color=styles[name][0], linestyle=styles[name][1], label=called(name))
               for name in strategies]
    return _dressed(figure, [*handles, Line2D([], [], color="black", label=_ours(table))], title, ncols=5)


def faults(table: pd.DataFrame, paper: pd.DataFrame, title: str) -> Figure:
    """The artefact's faults: a panel a switch, the right way beside the fault, the published mean dashed.

    table: `curves` with the columns switch (its name and the fault's value) and fault (True where it is on).
    """
    switches = list(dict.fromkeys(table["switch"]))
    figure, axes = plt.subplots(1, len(switches), figsize=(4.2 * len(switches), 4.3), sharey=True, squeeze=False,
                                layout="constrained")
    right, wrong = sns.color_palette("colorblind")[0], sns.color_palette("colorblind")[3]
    for switch, axis in zip(switches, axes.flat, strict=True):
        cell = table[table["switch"] == switch]
        strategy, alpha = cell["strategy"].iloc[0], cell["alpha"].iloc[0]
        means = _mean_of_architectures(cell, "fault")
        theirs = paper.query("alpha == @alpha and strategy == @strategy").groupby("round")["accuracy"].mean()
        axis.plot(theirs.index, theirs, "--", color="black", linewidth=1)
        _band(axis, means[~means["fault"]], right)
        _band(axis, means[means["fault"]], wrong, "-.")
        axis.set(title=f"{called(strategy)}: {switch}, {mixed(alpha)}", ylim=(0, 1))
        axis.grid(alpha=0.3)
    handles = [Line2D([], [], color=right, label="as the paper describes it"),
               Line2D([], [], color=wrong, linestyle="-.", label="with the artefact's fault")]
    if not paper.empty:
        handles.append(Line2D([], [], color="black", linestyle="--", linewidth=1, label=PUBLISHED))
    return _dressed(figure, [*handles, Line2D([], [], color="grey", label=_ours(table))], title, ncols=2)


def _in_order(table: pd.DataFrame) -> tuple[list[float | str], list[str]]:
    return sorted(set(table["alpha"]), reverse=True), in_order(table["strategy"])


def _mean_of_architectures(table: pd.DataFrame, *more: str) -> pd.DataFrame:
    return table.groupby(["strategy", "alpha", "seed", "round", *more], as_index=False)[["accuracy"]].mean()


def _band(axis: Axes, table: pd.DataFrame, colour: str | RGB, style: str = "-") -> None:
    line = over_seeds(table, ["round"]).sort_values("round")
    axis.plot(line["round"], line["mean"], style, color=colour, linewidth=1.8)
    axis.fill_between(line["round"], line["mean"] - line["half"], line["mean"] + line["half"], color=colour, alpha=0.18,
                      linewidth=0)


def _ours(table: pd.DataFrame) -> str:
    seeds = table["seed"].nunique()
    return f"ours: mean of {seeds} seeds, band: Student's 95 % interval" if seeds > 1 else "ours: one seed"


def _dressed(figure: Figure, handles: list[Line2D], title: str, ncols: int) -> Figure:
    for axis in figure.axes:
        axis.set(xlabel="collaboration round", ylabel="top-1 test accuracy (0-1)")
        axis.label_outer()
        places = axis.xaxis.get_major_locator()
        assert isinstance(places, MaxNLocator)  # matplotlib's default
        places.set_params(integer=True)
    figure.suptitle(title)
    figure.legend(handles=handles, loc="outside lower center", ncols=ncols, frameon=False, fontsize=9)
    return figure
