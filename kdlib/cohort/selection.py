"""Which clients take part in a round: in turn, at random, or by their behaviour (PAPER: FedDF; FedLesScan, 2022).

Whatever the rule, clients are chosen per architecture, architectures take turns, and each is served in every round.

By behaviour, in this order: rookies, which were never called; then clients by how fast and how reliable they were, in
clusters; last, only to fill the round, clients in back-off, which missed their last call.

    t = moving average of a client's training times, 1/2 on the newest
    p = 1.5 x longest time in the group x moving average of (missed round + 1) / round, 0.8 on the newest

The standardised (t, p) of an architecture's clients are clustered. Early rounds begin with the fastest cluster and
later ones with slower ones, so a round's clients take about equally long and nobody is left out for ever.

Object in the Store, unless clients simply take turns: public/selection/ROUND, the round's clients, sorted.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import NamedTuple

import numpy as np

from kdlib.errors import Damaged
from kdlib.settings.shared import Selecting
from kdlib.store.names import selection
from kdlib.store.store import Store

PENALTY = 1.5
EPS = np.arange(0.01, 1.92, 0.1)  # DBSCAN's radius, of which the one with the best clusters is taken
MIN_SAMPLES = 2


class Past(NamedTuple):
    """What is known of a client.

    finished: (round, seconds of training) of the calls that it answered; missed: rounds of those that it did not; both
    oldest first.
    """

    finished: tuple[tuple[int, float], ...] = ()
    missed: tuple[int, ...] = ()

    @property
    def calls(self) -> tuple[int, ...]:
        """The rounds in which it was called."""
        return tuple(sorted([round_ for round_, _ in self.finished] + list(self.missed)))

    @property
    def back_at(self) -> int:
        """The first round in which it is no longer in back-off: 1, 2, 4 ... rounds after so many misses in a row."""
        last = self.finished[-1][0] if self.finished else 0
        in_a_row = sum(round_ > last for round_ in self.missed)
        return self.missed[-1] + 2 ** (in_a_row - 1) + 1 if in_a_row else 0

    def after(self, round_: int, seconds: float | None) -> "Past":
        """Its past once more is known: seconds of the call's training, or None where it missed it."""
        if seconds is None:
            return self._replace(missed=(*self.missed, round_))
        return self._replace(finished=(*self.finished, (round_, seconds)))


def chosen_of(experiment: Selecting, store: Store, round_: int) -> tuple[str, ...]:
    """The round's clients as they were chosen, in client order; Steps read them here.

    Raises Missing before that, and Damaged where it says nothing of this experiment's clients.
    """
    if experiment.selection == "round-robin":
        return round_robin(experiment, round_)
    chosen = store.get_json(selection(round_))
    clients = experiment.client_names
    if not isinstance(chosen, list) or any(chosen.count(client) != 1 or client not in clients for client in chosen):
        raise Damaged(f"{selection(round_)} is damaged: it does not say who is called")
    return tuple(chosen)


def choose(experiment: Selecting, round_: int, pasts: Mapping[str, Past]) -> tuple[str, ...]:
    """clients_per_round clients, in client order, by the experiment's rule. pasts: of every client, before `round`."""
    if experiment.selection == "round-robin":
        return round_robin(experiment, round_)
    if experiment.selection == "random":
        return at_random(experiment, round_)
    return by_behaviour(experiment, round_, pasts)


def round_robin(experiment: Selecting, round_: int) -> tuple[str, ...]:
    """Architectures take turns, and within one its clients do.

    Turns run on from round to round, so over the rounds every client of an architecture is called equally often,
    give or take one.
    """
    groups = _groups(experiment)
    called = [0] * len(groups)
    for past in range(1, round_ + 1):
        chosen: list[str] = []
        turn = past - 1
        while len(chosen) < experiment.clients_per_round:
            group = groups[turn % len(groups)]
            fresh = group[called[turn % len(groups)] % len(group)]
            if fresh not in chosen:  # a small group may be exhausted before the round is full
                chosen.append(fresh)
                called[turn % len(groups)] += 1
            turn += 1
    return tuple(sorted(chosen))


def at_random(experiment: Selecting, round_: int) -> tuple[str, ...]:
    """Architectures take turns, each time with one of their clients drawn by seed."""
    lot = _lots(experiment, round_)
    queues = [sorted(group, key=lot.__getitem__) for group in _groups(experiment, round_)]
    return tuple(sorted(_in_turn(queues)[: experiment.clients_per_round]))


def by_behaviour(experiment: Selecting, round_: int, pasts: Mapping[str, Past]) -> tuple[str, ...]:
    """See the module. Who is alike in all that counts is put in order by seed.

    The later clusters' turn comes with the share of the rounds that is over, so unlike with the other rules a longer
    run need not begin with a shorter one's rounds.
    """
    lot = _lots(experiment, round_)
    tiers = [_tiers(group, round_, experiment.rounds, pasts, lot) for group in _groups(experiment, round_)]
    # Every architecture's best client first; all others in turn, but nobody in back-off before any who is not.
    first = [next(client for tier in of_group for client in tier) for of_group in tiers]
    rest = [client for of_tier in zip(*tiers, strict=True) for client in _in_turn(of_tier) if client not in first]
    return tuple(sorted([*first, *rest][: experiment.clients_per_round]))


def _tiers(group: Sequence[str], round_: int, rounds: int, pasts: Mapping[str, Past],
           lot: Mapping[str, int]) -> tuple[list[str], list[str], list[str]]:
    """An architecture's rookies, its others by cluster, and those in back-off, each in the order of their turn."""
    rookies = [client for client in group if not pasts[client].calls]
    resting = [client for client in group if round_ < pasts[client].back_at]
    others = [client for client in group if client not in rookies and client not in resting]
    again = [pasts[client].calls[1] for client in group if len(pasts[client].calls) > 1]
    clusters = clustered(others, round_, pasts, group)
    first = begin(len(clusters), round_, min(again, default=round_), rounds)
    in_order = [client for cluster in clusters[first:] + clusters[:first]
                for client in sorted(cluster, key=lambda client: (len(pasts[client].calls), lot[client]))]
    return (sorted(rookies, key=lot.__getitem__), in_order,
            sorted(resting, key=lambda client: (pasts[client].back_at, lot[client])))


def begin(clusters: int, round_: int, first_round: int, rounds: int) -> int:
    """Which cluster a round begins with: the floor percentile of the share of rounds since `first_round` that is over.

    first_round: the first in which one of the group's clients was called again, so that there were clusters.
    """
    return (round_ - first_round) * max(clusters - 1, 0) // max(rounds - first_round, 1)


def clustered(clients: Sequence[str], round_: int, pasts: Mapping[str, Past], group: Sequence[str]) -> list[list[str]]:
    """The clients, all of them called before, in clusters of like behaviour, the fastest (least mean t + p) first."""
    if not clients:
        return []
    found = features(clients, round_, pasts, group)
    labels = cluster(found)
    means = {label: found[labels == label].sum(1).mean() for label in set(labels.tolist())}
    return [[client for client, own in zip(clients, labels, strict=True) if own == label]
            for label in sorted(means, key=means.__getitem__)]


def features(clients: Sequence[str], round_: int, pasts: Mapping[str, Past], group: Sequence[str]) -> np.ndarray:
    """t and p of each client, in seconds: float64 (clients, 2). One that never finished counts as the group's slowest.

    group: all the architecture's clients, of which the longest time is.
    """
    longest = max((seconds for client in group for _, seconds in pasts[client].finished), default=0.0)
    times = [_average([seconds for _, seconds in pasts[client].finished] or [longest], 0.5) for client in clients]
    misses = [_average([(missed + 1) / round_ for missed in pasts[client].missed] or [0.0], 0.8) for client in clients]
    return np.column_stack([times, PENALTY * longest * np.array(misses)])


def cluster(features: np.ndarray) -> np.ndarray:
    """A label for each row, int (N,): DBSCAN on standardised features, noise being a cluster of its own.

    Of the radii in EPS the one with the best Calinski-Harabasz score; where none makes several clusters, one holds all.
    """
    from sklearn.cluster import DBSCAN  # a second of imports that other rules need not wait for
    from sklearn.metrics import calinski_harabasz_score, pairwise_distances
    from sklearn.preprocessing import StandardScaler

    best, labels, before = -np.inf, np.zeros(len(features), int), -1
    scaled = StandardScaler().fit_transform(features)
    distances = pairwise_distances(scaled)
    for eps in EPS:
        near = int(np.count_nonzero(distances <= eps))
        if near == before:  # the same neighbours, so the same clusters
            continue
        before = near
        found = DBSCAN(eps=eps, min_samples=MIN_SAMPLES, metric="precomputed").fit_predict(distances)
        if 1 < len(set(found)) < len(found) and (score := calinski_harabasz_score(scaled, found)) > best:
            best, labels = score, found
    return labels


def _average(values: Iterable[float], newest: float) -> float:
    """The moving average, oldest first, with the weight `newest` on each new value."""
    average, *others = values
    for value in others:
        average = newest * value + (1 - newest) * average
    return average


def _groups(experiment: Selecting, round_: int = 1) -> list[list[str]]:
    """Each architecture's clients; another architecture comes first in each round."""
    groups = [[name for name in experiment.client_names if experiment.architecture_of(name) == architecture]
              for architecture in experiment.architectures]
    first = (round_ - 1) % len(groups)
    return groups[first:] + groups[:first]


def _lots(experiment: Selecting, round_: int) -> dict[str, int]:
    """client -> its place in an order drawn by seed."""
    order = experiment.rng(round_, "server", "selection").permutation(experiment.clients)
    return dict(zip(experiment.client_names, order.tolist(), strict=True))


def _in_turn(queues: Iterable[Sequence[str]]) -> list[str]:
    """The first of each queue, then the second of each, and so on."""
    return [client for turn in zip_longest(*queues) for client in turn if client is not None]
