"""Every figure and table as a function of records, and how they are kept in papers_figures/."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from filelock import FileLock
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import stats

from kdlib import archive
from kdlib.errors import KdlibError
from kdlib.experiment import Experiment
from kdlib.machine import hardware
from kdlib.results import Run, accuracy_by_architecture, load

TITLES = {"fedmd": "FedMD", "feddf": "FedDF", "alone": "alone", "fedavg": "FedAvg"}
PUBLISHED = "published (Chadha et al., 2024), dashed"
INDEX = ("figure", "notebook", "command", "runs", "seconds", "hardware")


def find(runs: str | Path, experiments: Sequence[Experiment]) -> list[Run]:
    """The complete run of each experiment, in their order, from the folder `runs`.

    Raises KdlibError, with the command that makes them, where some are missing.
    """
    folders = [path.parent for path in sorted(Path(runs).glob("*/experiment.json"))]
    complete = {one.experiment.model_dump_json(): one for one in map(load, folders) if one.result is not None}
    missing = [one for one in experiments if one.model_dump_json() not in complete]
    if missing:
        first = missing[0]
        raise KdlibError(f"{len(missing)} of {len(experiments)} runs are not in {runs} or not complete, the first "
                         f"being {first.task.name} {first.strategy} alpha {first.alpha:g} seed {first.seed}; "
                         f"make them with `kdlib reproduce --task {first.task.name} ...`")
    return [complete[one.model_dump_json()] for one in experiments]


def curves(runs: Iterable[Run], **labels) -> pd.DataFrame:
    """strategy, alpha, seed, round, architecture, accuracy (0-1) of all the runs, and the labels given."""
    return pd.concat([accuracy_by_architecture(one).assign(strategy=one.experiment.strategy,
                                                           alpha=one.experiment.alpha, seed=one.experiment.seed,
                                                           **labels) for one in runs], ignore_index=True)


def published(file: str | Path, task: str) -> pd.DataFrame:
    """The paper's curves of a task: strategy, alpha, model (0-5), round, accuracy; empty where it has none.

    FedDF's published point r is after r + 1 rounds, so it is moved there.
    """
    table = pd.read_csv(file, comment="#").query("dataset == @task").copy()
    table["round"] += table["strategy"] == "feddf"
    return table


def interval(values: Sequence[float]) -> float:
    """Half of Student's 95 % interval of the mean; NaN for a single value, which has none."""
    if len(values) < 2:
        return np.nan
    return float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))


def over_seeds(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """`by`, mean, half (of the 95 % interval) and seeds, of accuracy."""
    return table.groupby(by, as_index=False, sort=False)["accuracy"].agg(mean="mean", half=interval, seeds="size")


def final_table(table: pd.DataFrame) -> pd.DataFrame:
    """Accuracy after the last round, mean over architectures: strategy, alpha, mean, half, seeds."""
    last = table[table["round"] == table["round"].max()]
    per_seed = last.groupby(["strategy", "alpha", "seed"], as_index=False, sort=False)["accuracy"].mean()
    return over_seeds(per_seed, ["strategy", "alpha"])


def data_distribution(tables: dict[float, pd.DataFrame], title: str) -> Figure:
    """The paper's bubbles: one panel an alpha; x client, y label, area = items.

    tables: alpha -> kdlib.partition.table.
    """
    figure, axes = plt.subplots(2, 2, figsize=(11, 6.5), sharex=True, sharey=True, layout="constrained")
    most = max(table["items"].max() for table in tables.values())
    for axis, (alpha, table) in zip(axes.flat, tables.items(), strict=True):
        number = table["client"].str.removeprefix("client-").astype(int)
        axis.scatter(number, table["label"], s=90 * table["items"] / most, color=sns.color_palette("colorblind")[0],
                     alpha=0.75, linewidth=0)
        axis.set(title=f"alpha = {alpha:g}", yticks=sorted(set(table["label"])), xlabel="client", ylabel="label")
        axis.label_outer()
        axis.grid(alpha=0.3)
    figure.suptitle(title)
    sizes = sorted({max(1, round(most * share)) for share in (0.1, 0.4, 1)})
    handles = [plt.scatter([], [], s=90 * size / most, color="grey", label=f"{size} items") for size in sizes]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(sizes), frameon=False)
    return figure


def accuracy(table: pd.DataFrame, paper: pd.DataFrame, title: str) -> Figure:
    """The paper's accuracy figure: a row an alpha, a column a strategy, a line an architecture.

    Ours solid, mean over seeds in Student's 95 % interval; the published curve dashed in the same colour behind it.
    """
    architectures = list(dict.fromkeys(table["architecture"]))
    architectures.sort(key=lambda name: (name[:4], [int(number) for number in name.split("-")[1:]]))
    colours = dict(zip(architectures, sns.color_palette("colorblind"), strict=False))
    alphas, strategies = _in_order(table)
    figure, axes = plt.subplots(len(alphas), len(strategies), figsize=(3.4 * len(strategies), 2.9 * len(alphas) + 1.1),
                                sharex=True, sharey=True, squeeze=False, layout="constrained")
    for (alpha, strategy), axis in zip(((a, s) for a in alphas for s in strategies), axes.flat, strict=True):
        cell = table.query("alpha == @alpha and strategy == @strategy")
        theirs = paper.query("alpha == @alpha and strategy == @strategy")
        for model, architecture in enumerate(architectures):
            line = theirs[theirs["model"] == model]
            axis.plot(line["round"], line["accuracy"], "--", color=colours[architecture], linewidth=1, alpha=0.7)
            _band(axis, cell[cell["architecture"] == architecture], colours[architecture])
        axis.set(title=f"{TITLES[strategy]}, alpha = {alpha:g}", ylim=(0, 1))
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
    figure, axes = plt.subplots(1, len(alphas), figsize=(4.2 * len(alphas), 4.3), sharey=True, squeeze=False,
                                layout="constrained")
    styles = dict(zip(TITLES, zip(sns.color_palette("colorblind"), ("-", "-", ":", "-."), strict=False), strict=True))
    means = _mean_of_architectures(table)
    for alpha, axis in zip(alphas, axes.flat, strict=True):
        for strategy in strategies:
            colour, style = styles[strategy]
            _band(axis, means.query("alpha == @alpha and strategy == @strategy"), colour, style)
        axis.set(title=f"alpha = {alpha:g}", ylim=(0, 1))
        axis.grid(alpha=0.3)
    handles = [Line2D([], [], color=styles[name][0], linestyle=styles[name][1], label=TITLES[name])
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
        axis.set(title=f"{TITLES[strategy]}: {switch}, alpha = {alpha:g}", ylim=(0, 1))
        axis.grid(alpha=0.3)
    handles = [Line2D([], [], color=right, label="as the paper describes it"),
               Line2D([], [], color=wrong, linestyle="-.", label="with the artefact's fault")]
    if not paper.empty:
        handles.append(Line2D([], [], color="black", linestyle="--", linewidth=1, label=PUBLISHED))
    return _dressed(figure, [*handles, Line2D([], [], color="grey", label=_ours(table))], title, ncols=2)


def speedups(bars: dict[str, dict[str, float]], engine: pd.DataFrame, title: str) -> Figure:
    """Left: what each speed-up is made of, factors stacked on a logarithmic axis; right: the engine by architecture.

    bars: label -> {factor's name: times faster}; a factor called `paper` is drawn in grey. engine: architecture, bench
    (train or predict), ratio.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained", width_ratios=(3, 2))
    names = list(dict.fromkeys(name for factors in bars.values() for name in factors if name != "paper"))
    colours = dict(zip(names, sns.color_palette("colorblind"), strict=False)) | {"paper": "0.6"}
    for row, factors in enumerate(bars.values()):
        reached = 1.0
        for name, factor in factors.items():
            left.barh(row, reached * (factor - 1), left=reached, color=colours[name], edgecolor="white")
            middle = reached * factor**0.5
            if factor > 1.25:
                left.text(middle, row, f"{factor:.3g}x", ha="center", va="center", color="white", fontsize=8)
            reached *= factor
        left.text(reached * 1.06, row, f"{reached:.3g}x", va="center", fontweight="bold")
    most = max(float(np.prod(list(factors.values()))) for factors in bars.values())
    left.set(xscale="log", xlim=(1, most * 2.2), xlabel="times faster than the baseline (logarithmic)",
             yticks=range(len(bars)), yticklabels=list(bars))
    left.invert_yaxis()
    handles = [plt.Rectangle((0, 0), 1, 1, color=colours[name]) for name in [*names, "paper"]]
    left.legend(handles, [*names, "published"], fontsize=8, loc="lower right")
    sns.barplot(engine, y="architecture", x="ratio", hue="bench", palette="colorblind", ax=right)
    right.axvline(1, color="black", linewidth=1)
    right.set(xlabel="times the plain PyTorch loop's images/s", ylabel="")
    for bar in right.containers:
        right.bar_label(bar, fmt="%.1f", fontsize=8, padding=2)
    figure.suptitle(title)
    return figure


def keep(figure: Figure, name: str, folder: str | Path, notebook: str, command: str, runs: Sequence[Run],
         table: pd.DataFrame | None = None) -> Path:
    """Write NAME.png and NAME.svg, the table as NAME.csv, the runs' records, and the figure's row of index.csv.

    Returns the PNG's path. The records go to records/KEY.zip, see kdlib.archive.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with plt.rc_context({"svg.hashsalt": "kdlib"}):  # equal figures give equal files
        figure.savefig(folder / f"{name}.png", dpi=150, metadata={"Software": None})
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None, "Creator": None})
    if table is not None:
        table.to_csv(folder / f"{name}.csv", index=False, float_format="%.4f")
    for one in runs:
        archive.keep(one, folder / "records")
    seconds = sum(one.result["seconds"] for one in runs)
    row = dict(zip(INDEX, (f"{name}.png", notebook, command, " ".join(one.key for one in runs), f"{seconds:.0f}",
                           hardware()), strict=True))
    with FileLock(folder / ".index.lock"):
        file = folder / "index.csv"
        rows = list(csv.DictReader(file.open())) if file.exists() else []
        rows = sorted([old for old in rows if old["figure"] != row["figure"]] + [row], key=lambda old: old["figure"])
        with file.open("w", newline="") as lines:
            writer = csv.DictWriter(lines, INDEX, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    return folder / f"{name}.png"


def _in_order(table):
    return sorted(set(table["alpha"]), reverse=True), [name for name in TITLES if name in set(table["strategy"])]


def _mean_of_architectures(table, *more):
    return table.groupby(["strategy", "alpha", "seed", "round", *more], as_index=False)["accuracy"].mean()


def _band(axis, table, colour, style="-"):
    line = over_seeds(table, ["round"]).sort_values("round")
    axis.plot(line["round"], line["mean"], style, color=colour, linewidth=1.8)
    axis.fill_between(line["round"], line["mean"] - line["half"], line["mean"] + line["half"], color=colour, alpha=0.18,
                      linewidth=0)


def _ours(table):
    seeds = table["seed"].nunique()
    return f"ours: mean of {seeds} seeds, band: Student's 95 % interval" if seeds > 1 else "ours: one seed"


def _dressed(figure, handles, title, ncols):
    for axis in figure.axes:
        axis.set(xlabel="collaboration round", ylabel="top-1 test accuracy (0-1)")
        axis.label_outer()
        axis.xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(title)
    figure.legend(handles=handles, loc="outside lower center", ncols=ncols, frameon=False, fontsize=9)
    return figure
