"""How long a function that is not running yet takes to answer."""

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

PARTS = {"until it takes calls": "0.75", "the Step itself": None, "the rest of the call": "0.4"}  # their colours


def coldstarts(table: pd.DataFrame, goals: dict[str, float], title: str) -> Figure:
    """Seconds from nothing to a function's first answer, a bar for each place and Step, made of three parts.

    table: a row a bar: how (process, container), step, listening, work, answered (medians, in seconds), low, high (of
    answered). goals: how -> seconds at most, of the first Step that there is a row of, drawn as a line.
    """
    colours = PARTS | {"the Step itself": sns.color_palette("colorblind")[0]}
    firsts = {list(table["how"]).index(how) for how in set(table["how"])}
    figure, axis = plt.subplots(figsize=(8, 0.7 * len(table) + 1.4), layout="constrained")
    bar: Any  # pandas-stubs give each value of a row every type that a table may hold
    for row, bar in enumerate(table.itertuples()):
        parts = (bar.listening, bar.work, max(0.0, bar.answered - bar.listening - bar.work))
        left = 0.0
        for (name, colour), seconds in zip(colours.items(), parts, strict=True):
            axis.barh(row, seconds, left=left, color=colour, edgecolor="white", label=name if row == 0 else None)
            left += seconds
        axis.errorbar(bar.answered, row, xerr=[[bar.answered - bar.low], [bar.high - bar.answered]], color="black",
                      capsize=3)
        axis.annotate(f"{bar.answered:.2f} s", (bar.high, row), (8, 0), textcoords="offset points", va="center",
                      bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
        if row in firsts:
            axis.plot(2 * [goals[bar.how]], [row - 0.45, row + 0.45], color="black", linestyle=":",
                      label="at most" if row == 0 else None)
    axis.set(yticks=range(len(table)), yticklabels=[f"{bar.step}\n{bar.how}" for bar in table.itertuples()],
             xlabel="seconds from the start to the first answer (median, least and most)", title=title,
             xlim=(0, table["high"].max() * 1.15))
    axis.invert_yaxis()
    axis.legend(fontsize=8)
    return figure
