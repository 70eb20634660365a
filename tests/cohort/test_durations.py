import pytest
import torch

from kdlib.cohort import durations
from kdlib.learning.models import start, work
from kdlib.settings.architectures import ZOO
from kdlib.settings.experiment import make_experiment


def feddf(**settings):
    return make_experiment("digits", "feddf", 1.0, **({"profile": "paper"} | settings))


def test_work_is_what_the_layers_multiply():
    # cnn2-128-256 on 28 x 28: 28 x 28 x 128 filters of 3 x 3 x 1; pooled to 28 x 28 (stride 1, same); 13 x 13 x 256
    # filters of 3 x 3 x 128; then 13 x 13 x 256 features times 6 classes
    by_hand = 28 * 28 * 128 * 9 + 13 * 13 * 256 * 9 * 128 + 13 * 13 * 256 * 6
    assert work(feddf(), "cnn2-128-256") == by_hand


def test_work_of_a_text_is_what_its_layers_multiply():
    # 80 steps of 4 gates from 8 inputs and 256 units, in the second layer from 256 and 256; then 82 characters.
    by_hand = 80 * 4 * 256 * (8 + 256 + 256 + 256) + 256 * 82
    assert work(make_experiment("shakespeare", "feddf", profile="paper"), "lstm2-256") == by_hand


@pytest.mark.parametrize("architecture", ZOO)
def test_work_is_counted_without_computing_or_drawing(architecture):
    state = torch.random.get_rng_state()
    experiment = feddf(seed=3)
    assert work(experiment, architecture) > 1e6
    assert torch.equal(torch.random.get_rng_state(), state)
    before = start(experiment, architecture).state_dict()
    assert all(torch.equal(before[name], now) for name, now in start(experiment, architecture).state_dict().items())


def test_a_duration_is_work_times_items_times_epochs_times_slow_down():
    usual = feddf()
    by_hand = 3 * work(usual, "cnn2-128-256") / 10e9 * 60 * 5
    assert durations.modelled(usual, "client-0000", 60) == pytest.approx(by_hand)
    assert durations.modelled(usual, "client-0006", 30) == pytest.approx(by_hand / 2), "of the same architecture"
    assert durations.modelled(feddf(local_epochs=1), "client-0000", 60) == pytest.approx(by_hand / 5)
    slowed = feddf(slow={"share": 1, "factor": 5})
    assert durations.modelled(slowed, "client-0000", 60) == pytest.approx(5 * by_hand)


@pytest.mark.parametrize(("clients", "share", "expected"), [(100, 1 / 3, 33), (12, 1 / 3, 4), (36, 0.1, 4), (12, 0, 0)])
def test_so_many_clients_are_slow_and_fail_by_seed(clients, share, expected):
    experiment = feddf(clients=clients, clients_per_round=6, slow={"share": share, "factor": 5}, fail={"share": share})
    slow, unreliable = durations.slow(experiment), durations.unreliable(experiment)
    assert len(slow) == len(unreliable) == expected and slow | unreliable <= set(experiment.client_names)
    other = experiment.model_copy(update={"seed": 1, "rounds": 3})
    assert expected == 0 or (durations.slow(other) != slow != unreliable)
    same = experiment.model_copy(update={"rounds": 3, "selection": "behaviour"})
    assert (durations.slow(same), durations.unreliable(same)) == (slow, unreliable)


def test_an_unreliable_client_fails_always_or_at_its_rate_and_another_never():
    always, often = feddf(fail={"share": 0.1}), feddf(fail={"share": 0.1, "rate": 0.25})
    for experiment, low, high in ((always, 1.0, 1.0), (often, 0.19, 0.31)):
        for client in experiment.client_names:
            rate = sum(durations.fails(experiment, round_, client) for round_ in range(1, 101)) / 100
            if client not in durations.unreliable(experiment):
                assert rate == 0
        pooled = [durations.fails(experiment, round_, client) for round_ in range(1, 101)
                  for client in durations.unreliable(experiment)]
        assert low <= sum(pooled) / len(pooled) <= high
    assert not any(durations.fails(feddf(), 1, client) for client in feddf().client_names)


def test_a_round_waits_for_a_failed_call_as_long_as_the_slowest_client_would_take():
    experiment = feddf(clients=12, clients_per_round=12, slow={"share": 0.5, "factor": 9})
    items = {name: 10 + index for index, name in enumerate(experiment.client_names)}
    assert durations.deadline(experiment, items) == max(
        durations.modelled(experiment, name, items[name]) for name in items)
