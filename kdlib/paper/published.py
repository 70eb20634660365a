"""What the paper published, as numbers."""

from pathlib import Path

import pandas as pd


def curves(file: str | Path, task: str) -> pd.DataFrame:
    """The paper's curves of a task: strategy, alpha, model (0-5), round, accuracy; empty where it has none.

    FedDF's published point r is after r + 1 rounds, so it is moved there.
    """
    with Path(file).open(encoding="utf-8") as lines:
        table = pd.read_csv(lines, comment="#").query("dataset == @task").copy()
    table["round"] += table["strategy"] == "feddf"
    return table
