"""PAPER's partition law against an independent draw of it, against the plain Dirichlet law, and against a fault."""

import numpy as np
import pytest

from kdlib.data import partition

LABELS = np.repeat(np.arange(10), 1200)
CLIENTS = 100
SEEDS = range(6)


def plain(alpha, rng, fair=np.inf):
    """Class by class Dirichlet proportions over the clients; whoever holds `fair` items gets no more."""
    held = [[] for _ in range(CLIENTS)]
    for label in np.unique(LABELS):
        share = rng.dirichlet([alpha] * CLIENTS) * [len(items) < fair for items in held]
        ends = np.round(np.cumsum(share) / share.sum() * 1200).astype(int)
        own = rng.permutation(np.flatnonzero(label == LABELS))
        for items, piece in zip(held, np.split(own, ends[:-1]), strict=True):
            items.extend(piece)
    return held


def of_paper(alpha, rng):
    """Drawn up to 50 times, then items go from the longest lists to the short ones; cut into equal parts."""
    fair = len(LABELS) / CLIENTS
    for _ in range(50):
        held = plain(alpha, rng, fair)
        if min(map(len, held)) >= fair / 2:
            break
    for items in held:
        if (lack := int(fair / 2) - len(items)) > 0:
            longest = max(held, key=len)
            rng.shuffle(longest)
            items += longest[:lack]
            del longest[:lack]
    return np.concatenate([rng.permutation(items) for items in held]).reshape(CLIENTS, -1)


def entropy(parts):
    """Mean over clients of the entropy of their labels, in nats; an empty list has none."""
    shares = [np.bincount(LABELS[np.asarray(part, int)], minlength=10) / max(1, len(part)) for part in parts]
    return np.mean([-sum(p * np.log(p) for p in share if p) for share in shares])


def over_seeds(law, alpha):
    return np.mean([entropy(law(alpha, np.random.default_rng(seed))) for seed in SEEDS])


def ours(alpha, rng):
    return partition.dirichlet(LABELS, CLIENTS, alpha, rng).parts


def follows_paper(alpha):
    """The mean label entropy is PAPER's, within 0.05 nats."""
    assert abs(over_seeds(ours, alpha) - over_seeds(of_paper, alpha)) < 0.05, "not PAPER's entropy"


@pytest.mark.parametrize("alpha", [100, 50, 1, 0.1])
def test_follows_paper(alpha):
    follows_paper(alpha)


@pytest.mark.parametrize("alpha", [100, 50, 1])
def test_is_near_the_plain_law_at_a_large_alpha(alpha):
    assert abs(over_seeds(ours, alpha) - over_seeds(plain, alpha)) < 0.05


def test_is_more_even_than_the_plain_law_at_a_small_alpha():
    assert over_seeds(ours, 0.1) > over_seeds(plain, 0.1) + 0.1


def without_fair_shares(by_class, clients, alpha, fair, rng):
    return [np.array(items, int) for items in plain(alpha, rng)]


def without_a_repeat(by_class, clients, alpha, fair, rng):
    return [np.arange(client * 120, client * 120 + 120) for client in range(clients)]


@pytest.mark.parametrize("fault", [without_fair_shares, without_a_repeat])
def test_law_fails_on_its_fault(fault, monkeypatch):
    monkeypatch.setattr(partition, "_draw", fault)
    with pytest.raises(AssertionError, match="not PAPER's entropy"):
        follows_paper(0.1)
