"""What was made faster, and by what."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure


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
    left.set(xscale="log", xlim=(1, most * 4), xlabel="times faster than the baseline (logarithmic)",
             yticks=range(len(bars)), yticklabels=list(bars))
    left.invert_yaxis()
    handles = [plt.Rectangle((0, 0), 1, 1, color=colours[name]) for name in [*names, "paper"]]
    left.legend(handles, [*names, "published"], fontsize=8, loc="lower right")
    sns.barplot(engine, y="architecture", x="ratio", hue="bench", palette="colorblind", ax=right)
    right.axvline(1, color="black", linewidth=1)
    right.set(xlabel="times the plain PyTorch loop's items/s", ylabel="")
    for bar in right.containers:
        right.bar_label(bar, fmt="%.1f", fontsize=8, padding=2)
    right.margins(x=0.1)
    figure.suptitle(title)
    return figure
