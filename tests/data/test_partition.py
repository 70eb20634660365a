import time

import numpy as np
import pytest

from kdlib.data import partition
from kdlib.data.partition import dirichlet, label_entropy, table
from kdlib.settings.experiment import make_experiment


def rng(seed=0):
    return np.random.default_rng(seed)


NASTY = {
    "tiny alpha": (np.repeat(np.arange(10), 60), 20, 0.001),
    "vanishing alpha": (np.repeat(np.arange(10), 60), 20, 1e-12),
    "one class": (np.zeros(100, np.int64), 10, 0.1),
    "as many clients as items": (np.arange(40) % 4, 40, 1.0),
    "more than half as many clients as items": (np.arange(40) % 4, 25, 0.01),
    "one client": (np.arange(40) % 4, 1, 0.1),
    "one item a class": (np.arange(30), 7, 0.1),
    "labels with gaps": (np.array([3, 3, 9, 9, 9, 200]), 2, 0.5),
}


@pytest.mark.parametrize(("labels", "clients", "alpha"), NASTY.values(), ids=NASTY)
def test_parts_are_disjoint_equal_and_complete(labels, clients, alpha):
    for seed in range(5):
        found = dirichlet(labels, clients, alpha, rng(seed))
        items = np.concatenate(found.parts)
        assert [len(part) for part in found.parts] == [len(labels) // clients] * clients
        assert len(np.unique(items)) == len(items) == len(labels) - found.unused
        assert 0 <= found.unused < clients and 1 <= found.draws <= partition.DRAWS
        assert items.min() >= 0 and items.max() < len(labels)


def test_the_seed_decides():
    labels = np.repeat(np.arange(5), 40)
    first, same, other = (np.concatenate(dirichlet(labels, 8, 0.5, rng(seed)).parts) for seed in (1, 1, 2))
    assert (first == same).all() and (first != other).any()


def test_a_full_client_gets_nothing_of_a_class():
    labels, clients, full = np.repeat(np.arange(10), 100), 20, 0
    by_class = [np.flatnonzero(labels == label) for label in range(10)]
    for seed in range(100):
        lists = partition._draw(by_class, clients, 0.1, len(labels) / clients, rng(seed))
        counts = np.array([np.bincount(labels[items], minlength=10) for items in lists])
        before = np.cumsum(counts, axis=1) - counts
        assert (counts[before >= len(labels) / clients] == 0).all()
        full += (before >= len(labels) / clients).sum()
    assert full > 100, "no client was full, so nothing is shown"


def test_lists_are_shuffled_joined_in_client_order_and_cut(monkeypatch):
    lists = [np.arange(100), np.arange(100, 140), np.arange(140, 180)]
    monkeypatch.setattr(partition, "_draw", lambda *_: [items.copy() for items in lists])
    first, second, third = dirichlet(np.zeros(180, np.int64), 3, 1.0, rng()).parts
    assert set(first) | set(second[:40]) == set(range(100)) and set(second[40:]) <= set(range(100, 140))
    assert set(second[40:]) | set(third[:20]) == set(range(100, 140)) and set(third[20:]) == set(range(140, 180))
    assert (np.diff(first) < 0).any(), "not shuffled"


def test_the_draw_is_repeated_until_nobody_has_less_than_half(monkeypatch):
    short = [np.arange(16), np.arange(16, 20)]
    enough = [np.arange(15), np.arange(15, 20)]
    draws = iter([short, short, enough])
    monkeypatch.setattr(partition, "_draw", lambda *_: next(draws))
    found = dirichlet(np.zeros(20, np.int64), 2, 1.0, rng())
    assert (found.draws, found.moved) == (3, 0)


def test_after_fifty_draws_short_lists_are_topped_up_from_the_longest(monkeypatch):
    lists = [np.arange(33), np.arange(33, 39), np.arange(39, 40), np.arange(0)]
    monkeypatch.setattr(partition, "_draw", lambda *_: [items.copy() for items in lists])
    found = dirichlet(np.zeros(40, np.int64), 4, 1.0, rng())
    assert (found.draws, found.moved) == (50, 4 + 5)
    assert set(range(39, 40)) <= set(found.parts[2]) | set(found.parts[3])


@pytest.mark.parametrize(("clients", "seconds"), [(100, 2), (1000, 20)])
def test_sixty_thousand_labels_are_shared_out_in_time(clients, seconds):
    began = time.process_time()
    dirichlet(np.repeat(np.arange(10), 6000), clients, 0.1, rng())
    assert time.process_time() - began < seconds


def test_table_counts_what_the_parts_hold():
    labels = np.array([0, 0, 1, 1, 1, 2])
    found = partition.Partition([np.array([0, 2, 3]), np.array([1, 4, 5])], draws=7, moved=2, unused=0)
    rows = table(found, labels, ("a", "b"))
    assert rows[["client", "label", "items"]].values.tolist() == [
        ["a", 0, 1], ["a", 1, 2], ["b", 0, 1], ["b", 1, 1], ["b", 2, 1]]
    assert (rows[["draws", "moved", "unused"]] == [7, 2, 0]).all(axis=None)
    two_of_three = -(1 / 3 * np.log(1 / 3) + 2 / 3 * np.log(2 / 3))
    assert label_entropy(rows) == pytest.approx((two_of_three + np.log(3)) / 2)


def test_items_that_have_an_owner_are_its():
    owners, labels = np.array([2, 0, 0, 3, 2]), np.array([5, 6, 6, 7, 8])
    experiment = make_experiment("shakespeare", "fedmd", profile="smoke")
    found = partition.partition(experiment, labels, owners)
    assert [part.tolist() for part in found.parts] == [[1, 2], [], [0, 4], [3]] and found[1:] == (0, 0, 0)
    rows = table(found, labels, experiment.client_names, ("A", "B", "C", "D"))
    assert rows[["client", "role", "label", "items"]].values.tolist() == [
        ["client-0000", "A", 6, 2], ["client-0002", "C", 5, 1], ["client-0002", "C", 8, 1], ["client-0003", "D", 7, 1]]


def test_strategies_share_the_partition_of_a_seed():
    labels = np.repeat(np.arange(6), 50)
    lines = {strategy: np.concatenate(partition.partition(
        make_experiment("digits", strategy, 0.5, profile="smoke"), labels).parts) for strategy in ("fedmd", "feddf")}
    assert (lines["fedmd"] == lines["feddf"]).all()
