"""Who is called: in turn, at random, by behaviour; on histories made by hand, with answers known beforehand."""

from collections import Counter

import numpy as np
import pytest

from kdlib.cohort import selection
from kdlib.cohort.selection import Past, choose, round_robin
from kdlib.errors import Missing
from kdlib.settings.experiment import make_experiment
from kdlib.store import names
from kdlib.store.store import Store

ROUNDS = 12
SIZES = [(6, 3, 6), (100, 6, 20), (100, 6, 6), (7, 3, 5), (7, 3, 7), (10, 4, 9), (3, 3, 3), (5, 1, 2), (13, 5, 8)]
RULES = ("round-robin", "random", "behaviour")


def federation(clients, architectures, called, rule="behaviour", **settings):
    names = tuple(f"cnn2-8-{8 + index}" for index in range(architectures))
    return make_experiment("digits", "feddf", 1.0, profile="smoke", clients=clients, architectures=names,
                           clients_per_round=called, selection=rule, **settings)


def name(index):
    return f"client-{index:04}"


def after(experiment, pasts, round_, missing=()):
    """The pasts once the round's choice is known, every client taking a second longer than the one before it."""
    chosen = choose(experiment, round_, pasts)
    return chosen, pasts | {one: pasts[one].after(round_, None if one in missing else 1.0 + int(one[-4:]))
                            for one in chosen}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("clients", "architectures", "called"), SIZES)
def test_every_round_is_full_and_serves_every_architecture(clients, architectures, called, rule):
    experiment = federation(clients, architectures, called, rule, rounds=ROUNDS)
    pasts = dict.fromkeys(experiment.client_names, Past())
    for round_ in range(1, ROUNDS // 2):
        before = dict(pasts)
        chosen, pasts = after(experiment, pasts, round_, missing={name(0), name(2)})
        assert chosen == choose(experiment, round_, before) == tuple(sorted(set(chosen)))
        assert len(chosen) == called and set(chosen) <= set(experiment.client_names)
        assert {experiment.architecture_of(one) for one in chosen} == set(experiment.architectures)


@pytest.mark.parametrize(("clients", "architectures", "called"), SIZES)
def test_in_turn_calls_are_even(clients, architectures, called):
    experiment = federation(clients, architectures, called, "round-robin")
    calls = Counter(dict.fromkeys(experiment.client_names, 0))
    for round_ in range(1, ROUNDS + 1):
        calls.update(round_robin(experiment, round_))
        for architecture in experiment.architectures:
            of_group = [count for one, count in calls.items() if experiment.architecture_of(one) == architecture]
            assert max(of_group) - min(of_group) <= 1, f"round {round_}: {architecture}'s are not called equally"


@pytest.mark.parametrize("rule", ["round-robin", "random"])
def test_who_is_called_does_not_depend_on_how_many_rounds_there_are(rule):
    short, long = (make_experiment("digits", "fedavg", 1.0, profile="smoke", clients=9, rounds=rounds, selection=rule)
                   for rounds in (2, 9))
    assert [choose(short, round_, {}) for round_ in (1, 2)] == [choose(long, round_, {}) for round_ in (1, 2)]
    assert choose(long, 1, {}) != choose(long, 2, {})


def test_at_random_everybody_has_the_same_chance_and_seeds_differ():
    experiment = federation(12, 3, 6, "random")
    calls = Counter(one for round_ in range(1, 401) for one in choose(experiment, round_, {}))
    assert set(calls) == set(experiment.client_names)
    assert all(abs(count - 200) < 5 * (400 * 0.5 * 0.5) ** 0.5 for count in calls.values()), calls
    other = experiment.model_copy(update={"seed": 1})
    assert [choose(experiment, round_, {}) for round_ in range(9)] != [choose(other, round_, {}) for round_ in range(9)]


@pytest.mark.parametrize(("missed", "finished", "back_at"), [
    ((), (), 0), ((3,), (), 5), ((3, 5), (), 8), ((3, 5, 8), (), 13), ((3, 5, 8, 13), (), 22),
    ((3, 5), (6,), 0), ((3, 5, 8), (6,), 10), ((3, 5, 8), (4,), 11), ((), (1, 2), 0),
])
def test_back_off_doubles_with_each_miss_in_a_row(missed, finished, back_at):
    past = Past(tuple((round_, 1.0) for round_ in finished), missed)
    assert past.back_at == back_at
    assert past.calls == tuple(sorted([*missed, *finished]))


def test_features_are_those_of_the_paper():
    pasts = {"a": Past(((1, 8.0), (3, 4.0), (4, 2.0))), "b": Past(((2, 10.0),), (4, 6)), "c": Past((), (7,)),
             "resting": Past(((1, 20.0),), (8,))}
    found = selection.features(["a", "b", "c"], 10, pasts, list(pasts))
    # t: 8, then (8 + 4) / 2 = 6, then (6 + 2) / 2 = 4; c never finished, so it counts as the slowest of the group: 20
    # p: 1.5 x 20 x average; b: 5/10, then 0.8 x 7/10 + 0.2 x 5/10 = 0.66; c: 8/10
    assert found == pytest.approx(np.array([[4.0, 0.0], [10.0, 1.5 * 20 * 0.66], [20.0, 1.5 * 20 * 0.8]]))


def test_a_group_that_never_finished_anything_has_no_times():
    assert selection.features(["a"], 3, {"a": Past((), (1,))}, ["a"]).tolist() == [[0.0, 0.0]]


def times(*seconds):
    return np.array([[value, 0.0] for value in seconds])


def groups(labels):
    """The partition that labels stand for."""
    return {frozenset(np.flatnonzero(labels == label).tolist()) for label in set(labels.tolist())}


@pytest.mark.parametrize(("features", "expected"), [
    (times(1.0, 1.1, 1.05, 5.0, 5.1), [{0, 1, 2}, {3, 4}]),
    (times(1.0, 1.0, 1.0, 5.0, 5.0), [{0, 1, 2}, {3, 4}]),  # no spread within: the score is the same for many radii
    (times(1, 1.1, 9, 9.1, 20, 20.1), [{0, 1}, {2, 3}, {4, 5}]),
    (times(1.0, 1.01, 1.02, 1.03, 9.0), [{0, 1, 2, 3}, {4}]),  # noise is a cluster of its own
    (times(2.0, 2.0, 2.0), [{0, 1, 2}]),  # nothing to tell apart
    (times(1.0, 9.0), [{0, 1}]),  # too few to score
    (times(3.0), [{0}]),
    (np.array([[1, 0], [1.1, 0], [1, 30], [1.1, 30], [9, 0], [9.1, 0]]), [{0, 1}, {2, 3}, {4, 5}]),  # unreliable too
])
def test_like_behaviour_is_one_cluster(features, expected):
    assert groups(selection.cluster(features)) == {frozenset(members) for members in expected}


def test_clusters_come_in_the_order_of_their_mean_time_and_penalty():
    pasts = {"slow": Past(((1, 9.0),)), "also slow": Past(((2, 9.1),)), "fast": Past(((1, 1.0),)),
             "also fast": Past(((2, 1.1),)), "fast, but missing": Past(((1, 1.0),), (2,)),
             "also missing": Past(((1, 1.1),), (2,))}
    # the two that missed round 2 have p = 1.5 x 9.1 x 3/6 = 6.8 beside their t of 1: after the fast, before the slow
    found = selection.clustered(list(pasts), 6, pasts, list(pasts))
    assert found == [["fast", "also fast"], ["fast, but missing", "also missing"], ["slow", "also slow"]]


@pytest.mark.parametrize(("clusters", "round_", "begins"), [
    (1, 20, 0), (2, 5, 0), (2, 19, 0), (2, 20, 1), (3, 5, 0), (3, 12, 0), (3, 13, 1), (3, 19, 1), (3, 20, 2),
    (5, 9, 1), (5, 17, 3), (0, 7, 0),
])
def test_later_rounds_begin_with_slower_clusters(clusters, round_, begins):
    """Clusters since round 5, of 20 rounds: floor of ((round - 5) / 15) x (clusters - 1)."""
    assert selection.begin(clusters, round_, first_round=5, rounds=20) == begins


def test_with_clusters_only_in_the_last_round_it_begins_with_the_fastest():
    assert selection.begin(3, 20, first_round=20, rounds=20) == 0


# One architecture, seven clients: three fast ones, of which client 1 was called least; two slow ones; one that has just
# missed a call; and a rookie.
PASTS = {name(0): Past(((1, 1.0), (2, 1.0), (4, 1.0))), name(1): Past(((1, 1.1), (3, 1.1))),
         name(2): Past(((2, 1.05), (3, 1.05), (5, 1.05))), name(3): Past(((1, 5.0),)),
         name(4): Past(((2, 5.1), (4, 5.1))), name(5): Past(((3, 1.0),), (6,)), name(6): Past()}


def called(called, round_, pasts=None, rounds=20):
    chosen = choose(federation(7, 1, called, rounds=rounds), round_, pasts or PASTS)
    return [int(one[-4:]) for one in chosen]


def test_rookies_come_first_then_the_fast_ones_and_of_them_the_least_called():
    assert called(1, 7) == [6]
    assert called(2, 7) == [1, 6]
    assert called(4, 7) == [0, 1, 2, 6]


def test_then_slower_ones_least_called_first_and_one_in_back_off_only_to_fill_the_round():
    assert called(5, 7) == [0, 1, 2, 3, 6], "of the slow ones 3 was called once, 4 twice"
    assert called(6, 7) == [0, 1, 2, 3, 4, 6]
    assert called(7, 7) == [0, 1, 2, 3, 4, 5, 6]


def test_the_last_round_begins_with_the_slow_ones_and_goes_round_to_the_fast():
    assert called(2, 20, rounds=20) == [3, 6]
    # 5 missed round 6 and is back since round 8; (6 + 1)/20 of a penalty puts it apart from the fast ones
    assert called(5, 20, rounds=20)[-1] == 6 and 3 in called(5, 20, rounds=20)


def test_after_its_back_off_a_client_has_its_turn_again():
    slower = {one: past._replace(finished=(*past.finished, (5, 30.0))) for one, past in PASTS.items() if one != name(5)}
    pasts = PASTS | slower
    assert 5 not in called(6, 7, pasts, rounds=999), "whoever else there is comes first"
    assert 5 in called(1, 60, pasts, rounds=999), "in the end its old miss weighs little: 1.5 x 30 x 7/60 = 5.25"


def test_an_architecture_whose_clients_are_all_in_back_off_is_served_all_the_same():
    experiment = federation(4, 2, 2, rounds=9)
    first, second, third, fourth = experiment.client_names
    pasts = {first: Past((), (1,)), second: Past(((1, 1.0),)), third: Past((), (1,)), fourth: Past(((1, 1.0),))}
    chosen = choose(experiment, 2, pasts)
    assert len(set(chosen) & {first, third}) == 1 == len(set(chosen) & {second, fourth})


def test_one_in_back_off_waits_for_those_of_other_architectures_that_are_not():
    experiment = federation(6, 2, 5, rounds=9)
    pasts = {one: Past(((1, 1.0),)) for one in experiment.client_names} | {name(0): Past((), (1,))}
    assert name(0) not in choose(experiment, 2, pasts)


def test_equals_are_drawn_by_seed_and_another_way_in_each_round():
    experiment = federation(20, 1, 2, rounds=99)
    rookies = dict.fromkeys(experiment.client_names, Past())
    drawn = [choose(experiment, round_, rookies) for round_ in range(1, 30)]
    assert drawn == [choose(experiment, round_, rookies) for round_ in range(1, 30)] and len(set(drawn)) > 20


def test_nobody_is_forgotten():
    experiment = federation(20, 2, 6, rounds=30)
    pasts = dict.fromkeys(experiment.client_names, Past())
    for round_ in range(1, 31):
        _, pasts = after(experiment, pasts, round_)
    assert min(len(past.calls) for past in pasts.values()) >= 3


def test_steps_read_the_choice_where_it_is_stored(tmp_path):
    store = Store(str(tmp_path))
    experiment = federation(6, 3, 3, "random")
    with pytest.raises(Missing, match="public/selection/001 is not in"):
        selection.chosen_of(experiment, store, 1)
    store.put_json(names.selection(1), [name(3), name(4), name(5)])
    assert selection.chosen_of(experiment, store, 1) == (name(3), name(4), name(5))
    in_turn = federation(6, 3, 3, "round-robin")
    assert selection.chosen_of(in_turn, store, 1) == round_robin(in_turn, 1), "which follows from the Experiment alone"
