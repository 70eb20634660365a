"""What a way of training costs in time, against what it reaches."""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter


def tradeoff(table: pd.DataFrame, title: str) -> Figure:
    """A panel a strategy, a point a way: seconds of re-training in one run against final accuracy.

    table: strategy, way (the first is what the others are held against), seconds, mean, half (of the 95 % interval over
    seeds; NaN for one seed). Left of the dashed line is faster, above the other is better.
    """
    strategies = list(dict.fromkeys(table["strategy"]))
    figure, axes = plt.subplots(1, len(strategies), figsize=(max(7.4, 4.6 * len(strategies)), 4.2), squeeze=False,
                                layout="constrained")
    ways = list(dict.fromkeys(table["way"]))
    looks = dict(zip(ways, zip(sns.color_palette("colorblind"), "osD^vPX*", strict=False), strict=False))
    for axis, strategy in zip(axes[0], strategies, strict=True):
        points = table[table["strategy"] == strategy]
        first = points.iloc[0]
        axis.axvline(first["seconds"], color="0.6", linestyle="--", linewidth=1)
        axis.axhline(first["mean"], color="0.6", linestyle="--", linewidth=1)
        for point in points.itertuples():
            shade, marker = looks[point.way]
            axis.errorbar(point.seconds, point.mean, yerr=point.half, color=shade, marker=marker, capsize=3,
                          linestyle="none", label=point.way)
        axis.set(title=strategy, xlabel="seconds of re-training in one run", xlim=(0, 1.05 * points["seconds"].max()))
        axis.yaxis.set_major_formatter(PercentFormatter(1))
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("final test accuracy")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=11)
    return figure
