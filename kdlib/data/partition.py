"""Non-IID data: which client holds which items (PAPER: Non-IID partitions)."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from kdlib.settings.experiment import Experiment

DRAWS = 50  # of the whole law; after as many failures the last draw is repaired


class Partition(NamedTuple):
    """parts: one int64 array of item numbers a client, disjoint, and by the Dirichlet law all of the same length.

    draws: how often the law was drawn; moved: items that the repair moved from long lists to short ones;
    unused: items left over when the rest was cut into equal parts (fewer than clients).
    """

    parts: list[np.ndarray]
    draws: int
    moved: int
    unused: int


def dirichlet(labels: np.ndarray, clients: int, alpha: float, rng: np.random.Generator) -> Partition:
    """Share the items out by class with proportions from a symmetric Dirichlet(alpha).

    labels: int64 (N,). Class by class, a client that already holds its fair share N/clients gets none of the class.
    The draw is repeated until the smallest list has at least half a fair share; after DRAWS failures it is repaired.
    The lists, each shuffled, are then concatenated in client order and cut into equal consecutive parts.
    """
    fair = len(labels) / clients
    by_class = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    draws, lists = 0, [np.empty(0)]
    while draws < DRAWS and min(map(len, lists)) < fair / 2:
        draws, lists = draws + 1, _draw(by_class, clients, alpha, fair, rng)
    moved = _repair(lists, fair, rng)
    line = np.concatenate([rng.permutation(items) for items in lists])
    size = len(line) // clients
    parts = np.split(line[: size * clients], clients)
    return Partition(parts, draws, moved, len(line) - size * clients)


def _draw(by_class: list[np.ndarray], clients: int, alpha: float, fair: float,
          rng: np.random.Generator) -> list[np.ndarray]:
    held = np.zeros(clients, dtype=np.int64)
    pieces: list[list[np.ndarray]] = [[] for _ in range(clients)]
    for items in by_class:
        share = rng.dirichlet(np.full(clients, alpha)) * (held < fair)
        if share.sum() == 0:  # at a tiny alpha all weight may lie on full clients: the rest share evenly
            share = (held < fair).astype(float)
        total = np.cumsum(share)  # over its own end it is exactly 1: a full last client gets nothing by rounding
        cuts = (total / total[-1] * len(items)).astype(np.int64)[:-1]
        for client, piece in enumerate(np.split(rng.permutation(items), cuts)):
            pieces[client].append(piece)
            held[client] += len(piece)
    return [np.concatenate(of_client) for of_client in pieces]


def _repair(lists: list[np.ndarray], fair: float, rng: np.random.Generator) -> int:
    """Top every list up to half a fair share, each time from the longest; returns the number of items moved."""
    moved = 0
    least = int(np.ceil(fair / 2))
    for client in range(len(lists)):
        while (lack := least - len(lists[client])) > 0:
            longest = max(range(len(lists)), key=lambda index: len(lists[index]))
            give = min(lack, len(lists[longest]) - least)
            given, lists[longest] = np.split(rng.permutation(lists[longest]), [give])
            lists[client] = np.concatenate([lists[client], given])
            moved += give
    return moved


def partition(experiment: Experiment, labels: np.ndarray, owners: np.ndarray | None = None) -> Partition:
    """The run's partition, the same for every strategy of the seed: by the items' owners, or else the Dirichlet law.

    labels: int64 (N,); owners: int64 (N,), each item's client by number, where that is no matter of chance.
    """
    if owners is not None:
        return Partition([np.flatnonzero(owners == client) for client in range(experiment.clients)], 0, 0, 0)
    assert experiment.alpha is not None  # Experiment asks for it where nobody owns the items
    return dirichlet(labels, experiment.clients, experiment.alpha, experiment.rng(0, "server", "partition"))


def table(parts: Partition, labels: np.ndarray, names: tuple[str, ...], roles: tuple[str, ...] = ()) -> pd.DataFrame:
    """One row per client and class that it holds: client, label, items; draws, moved and unused on every row.

    roles: the clients', a column more where they have any.
    """
    rows = [(name, int(label), int(items)) for name, part in zip(names, parts.parts, strict=True)
            for label, items in zip(*np.unique(labels[part], return_counts=True), strict=True)]
    held = pd.DataFrame(rows, columns=["client", "label", "items"])
    if roles:
        held.insert(1, "role", held["client"].map(dict(zip(names, roles, strict=True))))
    return held.assign(draws=parts.draws, moved=parts.moved, unused=parts.unused)


def label_entropy(counts: pd.DataFrame) -> float:
    """Mean over clients of the entropy of their labels, in nats: 0 is one class a client, log(classes) is IID."""
    share = counts["items"] / counts.groupby("client")["items"].transform("sum")
    return float((-share * np.log(share)).groupby(counts["client"]).sum().mean())
