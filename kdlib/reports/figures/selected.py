"""Whom each rule of selection calls, and what that costs in time."""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D


def selection(table: pd.DataFrame, title: str) -> Figure:
    """A panel a rule: each call of the first seed, by round and client; and the modelled time so far, by rule.

    table: kdlib.cohort.history.simulate with the columns rule and seed. Clients are in the order usual, slow, failing.
    """
    rules, seeds = list(dict.fromkeys(table["rule"])), sorted(set(table["seed"]))
    figure, axes = plt.subplots(1, len(rules) + 1, figsize=(4.1 * len(rules) + 4.6, 4.8), layout="constrained")
    usual, slow, failed = (sns.color_palette("colorblind")[index] for index in (0, 1, 3))
    one_seed = table[table["seed"] == seeds[0]]
    ails = one_seed.groupby("client")[["failed", "slow"]].max()
    order = {client: place for place, client in enumerate(ails.sort_values(["failed", "slow"]).index)}
    for rule, axis in zip(rules, axes, strict=False):
        cell = one_seed[one_seed["rule"] == rule]
        shades = [failed if fails else slow if lags else usual
                  for fails, lags in zip(cell["failed"], cell["slow"], strict=True)]
        axis.scatter(cell["round"], [order[client] for client in cell["client"]], 10, color=shades, marker="s")
        axis.set(title=f"{rule}: {len(cell)} calls", xlabel="round", ylabel="client", yticks=[],
                 ylim=(-1, len(order)))
    _time(axes[-1], table, dict(zip(rules, sns.color_palette("colorblind")[4:], strict=False)))
    for axis in axes:
        axis.xaxis.get_major_locator().set_params(integer=True)
    handles = [Line2D([], [], color=shade, marker="s", linestyle="", label=label)
               for shade, label in ((usual, "usual"), (slow, "slow"), (failed, "fails"))]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(title, fontsize=11)
    return figure


def _time(axis: Axes, table: pd.DataFrame, colours: dict[str, tuple]) -> None:
    rounds = table.groupby(["rule", "seed", "round"])["seconds"].max()  # a round takes as long as its longest call
    so_far = rounds.groupby(["rule", "seed"]).cumsum().reset_index()
    for rule, shade in colours.items():
        cell = so_far[so_far["rule"] == rule]
        for _, line in cell.groupby("seed"):
            axis.plot(line["round"], line["seconds"], color=shade, linewidth=0.8, alpha=0.6)
        mean = cell.groupby("round")["seconds"].mean()
        axis.plot(mean.index, mean, color=shade, linewidth=2.5, label=f"{rule}, mean of {cell['seed'].nunique()} seeds")
    axis.set(title="modelled time so far", xlabel="round", ylabel="seconds of a nominal core", ylim=(0, None))
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
