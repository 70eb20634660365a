"""How figures are kept in papers_figures/: the pictures, their table, the records behind them, a row of index.csv."""

import csv
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from filelock import FileLock
from matplotlib.figure import Figure

from kdlib.machine import hardware
from kdlib.runs import archive
from kdlib.runs.run import Run

INDEX = ("figure", "notebook", "command", "runs", "seconds", "hardware")


def keep(figure: Figure, name: str, folder: str | Path, notebook: str, command: str, runs: Sequence[Run],
         table: pd.DataFrame | None = None) -> Path:
    """Write NAME.png and NAME.svg, the table as NAME.csv, the runs' records, and the figure's row of index.csv.

    Returns the PNG's path. The records go to records/KEY.zip, see kdlib.runs.archive.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with plt.rc_context({"svg.hashsalt": "kdlib"}):  # equal figures give equal files
        figure.savefig(folder / f"{name}.png", dpi=150, metadata={"Software": None})
        figure.savefig(folder / f"{name}.svg", dpi=150, metadata={"Date": None, "Creator": None})
    if table is not None:
        (folder / f"{name}.csv").write_text(table.to_csv(index=False, float_format="%.4f"), encoding="utf-8")
    note(f"{name}.png", folder, notebook, command, runs)
    return folder / f"{name}.png"


def note(file: str, folder: str | Path, notebook: str, command: str, runs: Sequence[Run]) -> None:
    """Keep the records that FOLDER/FILE was made from, in records/KEY.zip, and write the file's row of index.csv."""
    folder = Path(folder)
    for one in runs:
        archive.keep(one, folder / "records")
    seconds = sum(one.final["seconds"] for one in runs)
    row = dict(zip(INDEX, (file, notebook, command, " ".join(one.key for one in runs), f"{seconds:.0f}",
                           hardware()), strict=True))
    with FileLock(folder / ".index.lock"):
        index = folder / "index.csv"
        rows = list(csv.DictReader(index.open())) if index.exists() else []
        rows = sorted([old for old in rows if old["figure"] != file] + [row], key=lambda old: old["figure"])
        with index.open("w", newline="") as lines:
            writer = csv.DictWriter(lines, INDEX, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
