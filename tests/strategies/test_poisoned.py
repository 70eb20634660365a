"""One poisoned client in six: the plain mean breaks, and the trimmed mean and the median cost three points at most."""

import functools

import pytest
import torch

import altered
from kdlib.runs import runner
from kdlib.settings.experiment import make_experiment
from kdlib.strategies import feddf, fedmd

BAD = "client-0005"
ROBUST = ("trimmed", "median")
SETTINGS = {"clients": 6, "rounds": 1, "samples": 200, "public_items": 400, "alignment_items": 256, "test_items": 200,
            "learning_rate": 0.003, "architectures": ("cnn2-128-256", "cnn3-64-128-256")}
OWN = {"fedmd": {"digest_epochs": 10, "digest_batch": 64, "revisit_epochs": 1, "pretrain_epochs": 2,
                 "transfer_epochs": 8},
       "feddf": {"clients_per_round": 6, "distil_batches": 100, "score_every": 100, "local_epochs": 3,
                 "validation_items": 200}}


def lies(handler, experiment, store, round_, client):
    """Random logits a thousand times as large as honest ones: finite, and of the right shape."""
    metrics = handler(experiment, store, round_, client)
    if client == BAD:
        name = f"{client}/{round_:03}/logits"
        honest = store.get(name)["logits"]
        noise = torch.randn(honest.shape, generator=torch.Generator().manual_seed(round_))
        store.put(name, {"logits": 1000 * noise})
    return metrics


@pytest.fixture(scope="module")
def accuracy(tmp_path_factory):
    """(strategy, mean, whether the client lies) -> the final mean accuracy over the honest architectures' models."""
    runs = tmp_path_factory.mktemp("runs")

    @functools.cache
    def reached(strategy, mean, poisoned):
        experiment = make_experiment("digits", strategy, 100.0, profile="smoke", mean=mean, **SETTINGS, **OWN[strategy])
        with pytest.MonkeyPatch.context() as patch:
            if poisoned:
                altered.handlers(patch, "fedmd", communicate=functools.partial(lies, fedmd.communicate))
                altered.handlers(patch, "feddf", train=functools.partial(lies, feddf.train))
            the_run = runner.run(experiment, runs / f"{poisoned}", progress=False)
        last = the_run.steps.query("step == 'evaluate' and round == 1 and subject != @BAD")
        return float(last["accuracy"].mean())

    return reached


@pytest.mark.parametrize("strategy", ["fedmd", "feddf"])
def test_the_plain_mean_breaks(strategy, accuracy):
    assert accuracy(strategy, "plain", True) < accuracy(strategy, "plain", False) - 0.1


@pytest.mark.parametrize("mean", ROBUST)
@pytest.mark.parametrize("strategy", ["fedmd", "feddf"])
def test_one_poisoned_client_costs_at_most_three_points(strategy, mean, accuracy):
    honest = accuracy(strategy, "plain", False)
    assert honest > 0.6, "nothing was learnt, so nothing is shown"
    assert accuracy(strategy, mean, True) > honest - 0.03
