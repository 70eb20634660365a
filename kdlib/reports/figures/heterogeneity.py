"""Who holds what: the paper's figure of the data's distribution."""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure


def data_distribution(tables: dict[float, pd.DataFrame], title: str) -> Figure:
    """The paper's bubbles: one panel an alpha; x client, y label, area = items.

    tables: alpha -> kdlib.data.partition.table.
    """
    columns = min(2, len(tables))
    rows = -(-len(tables) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(11, 3.25 * rows), sharex=True, sharey=True, squeeze=False,
                                layout="constrained")
    most = max(table["items"].max() for table in tables.values())
    for axis, (alpha, table) in zip(axes.flat, tables.items(), strict=False):
        number = table["client"].str.removeprefix("client-").astype(int)
        axis.scatter(number, table["label"], s=90 * table["items"] / most, color=sns.color_palette("colorblind")[0],
                     alpha=0.75, linewidth=0, rasterized=True)  # as paths a hundred clients are megabytes of SVG
        axis.set(title=f"alpha = {alpha:g}", yticks=sorted(set(table["label"])), xlabel="client", ylabel="label")
        axis.label_outer()
        axis.grid(alpha=0.3)
    figure.suptitle(title)
    sizes = sorted({max(1, round(most * share)) for share in (0.1, 0.4, 1)})
    handles = [plt.scatter([], [], s=90 * size / most, color="grey", label=f"{size} items") for size in sizes]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(sizes), frameon=False)
    return figure


def windows_per_client(table: pd.DataFrame, title: str) -> Figure:
    """The same for texts, where a client is a role: x client, y windows that it trains on.

    table: kdlib.data.partition.table.
    """
    held = table.groupby("client")["items"].sum()
    figure, axis = plt.subplots(figsize=(11, 3.8), layout="constrained")
    axis.bar([int(name.removeprefix("client-")) for name in held.index], held,
             color=sns.color_palette("colorblind")[0])
    axis.axhline(held.median(), color="black", linewidth=1, linestyle="--", label=f"median: {held.median():,.0f}")
    axis.set(title=title, xlabel="client", ylabel="windows")
    axis.legend(frameon=False)
    axis.grid(axis="y", alpha=0.3)
    return figure
