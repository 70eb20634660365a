"""An estimate counts what a run really does, and scales up what it measured by the right factors."""

import pytest

from kdlib.invoke.strategy import Sizes
from kdlib.reports.cost import load_prices
from kdlib.reports.estimate import duration, estimate, probe, work
from kdlib.settings.experiment import make_experiment

PRICES = load_prices("lambda")


@pytest.mark.parametrize("strategy", ["fedmd", "feddf", "fedavg"])
def test_invocations_and_bytes_are_those_of_the_run(strategy, common):
    experiment = make_experiment("digits", strategy, 1.0, profile="smoke")
    found = estimate(experiment, PRICES, cores=1, progress=False)
    table = common(strategy).table
    assert found.invocations == len(table)
    assert found.bytes_moved == pytest.approx((table["bytes_in"] + table["bytes_out"]).sum(), rel=0.3)
    assert found.seconds == pytest.approx(sum(found.per_step.values())), "one core, one thread: one after another"
    assert 0 < found.modelled < found.seconds and found.usd > 0
    assert set(found.per_step) == set(table["step"])


def test_more_cores_take_less_until_the_longest_step_is_alone():
    experiment = make_experiment("digits", "alone", 1.0, profile="smoke", rounds=1)
    found = estimate(experiment, PRICES, cores=64, progress=False)
    assert found.seconds == pytest.approx(found.modelled)


def test_a_probe_has_one_round_and_the_sizes_that_bytes_depend_on():
    experiment = make_experiment("digits", "feddf", 1.0, profile="paper", clients=24)
    small = probe(experiment, Sizes(27, 574, 574, 71))
    assert (small.clients, small.clients_per_round, small.rounds, small.local_epochs) == (6, 6, 1, 1)
    assert (small.samples, small.public_items, small.distil_batches) == (27, 574, experiment.score_every)
    assert (small.width, small.alignment_items) == (experiment.width, experiment.alignment_items)


def test_work_by_hand():
    sizes = Sizes(client=600, public=10_000, aligned=5000, validation=400)
    fedmd, feddf = (make_experiment("digits", strategy, 1.0, profile="paper") for strategy in ("fedmd", "feddf"))
    assert work(fedmd, "pretrain", sizes) == pytest.approx(20 * (8000 + 2000 / 4))
    assert work(fedmd, "transfer", sizes) == pytest.approx(25 * (480 + 120 / 4))
    assert work(fedmd, "digest", sizes) == 5000 and work(fedmd, "revisit", sizes) == 1200
    assert work(fedmd, "aggregate", sizes) == 5000 * 100
    assert work(feddf, "train", sizes) == 5 * 600 + 5000 / 4
    assert work(feddf, "distil", sizes) == 1000 * 128 + 21 * 400 / 4
    recomputed = feddf.model_copy(update={"teachers": "recomputed"})
    assert work(recomputed, "distil", sizes) == 1000 * 128 * (1 + 20 / 4) + 21 * 400 / 4


@pytest.mark.parametrize(("seconds", "text"), [(4.26, "4.3 s"), (190, "3 min 10 s"), (3599, "59 min 59 s"),
                                               (18120, "5 h 2 min")])
def test_durations_are_read_easily(seconds, text):
    assert duration(seconds) == text
