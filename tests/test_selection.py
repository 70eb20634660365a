from collections import Counter

import pytest

from kdlib.experiment import make_experiment
from kdlib.selection import round_robin

ROUNDS = 12


@pytest.mark.parametrize(("clients", "architectures", "called"), [
    (6, 3, 6), (100, 6, 20), (100, 6, 6), (7, 3, 5), (7, 3, 7), (10, 4, 9), (3, 3, 3), (5, 1, 2), (13, 5, 8),
])
def test_every_round_serves_every_architecture_and_calls_are_even(clients, architectures, called):
    names = tuple(f"cnn2-8-{8 + index}" for index in range(architectures))
    experiment = make_experiment("digits", "feddf", 1.0, profile="smoke", clients=clients, architectures=names,
                                 clients_per_round=called)
    calls = Counter(dict.fromkeys(experiment.client_names, 0))
    for round in range(1, ROUNDS + 1):
        chosen = round_robin(experiment, round)
        assert chosen == round_robin(experiment, round) == tuple(sorted(set(chosen)))
        assert len(chosen) == called and set(chosen) <= set(experiment.client_names)
        assert {experiment.architecture_of(name) for name in chosen} == set(names)
        calls.update(chosen)
        for name in names:
            of_group = [count for client, count in calls.items() if experiment.architecture_of(client) == name]
            assert max(of_group) - min(of_group) <= 1, f"round {round}: {name}'s clients are not called equally"


def test_who_is_called_does_not_depend_on_how_many_rounds_there_are():
    short, long = (make_experiment("digits", "fedavg", 1.0, profile="smoke", clients=9, rounds=rounds)
                   for rounds in (2, 9))
    assert [round_robin(short, round) for round in (1, 2)] == [round_robin(long, round) for round in (1, 2)]
    assert round_robin(long, 1) != round_robin(long, 2)
