"""Runs with other networks than the paper's: any mixture goes through, and comes out the same each time."""

import pytest

from kdlib.runs import runner
from kdlib.settings.experiment import make_experiment

FEW = {"rounds": 2, "samples": 40, "local_epochs": 1, "public_items": 200, "alignment_items": 64, "test_items": 100,
       "distil_batches": 4, "score_every": 2}


@pytest.mark.parametrize(("task", "settings"), [
    ("digits", {"architectures": ["resnet8", "cnn2-128-256", "resnet20"], "clients": 3, "clients_per_round": 3}),
    ("own texts", {"architectures": ["transformer2-64", "lstm1-128"], "clients": 2, "clients_per_round": 2}),
])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_mixture_of_networks_is_trained_and_repeated_byte_for_byte(task, settings, optimizer, own_texts, tmp_path,
                                                                     monkeypatch):
    if task == "own texts":
        monkeypatch.setenv("KDLIB_DATA", str(own_texts))
        task = str(own_texts / "own.toml")
    experiment = make_experiment(task, "feddf", profile="smoke", optimizer=optimizer, **FEW | settings)
    the_run = runner.run(experiment, tmp_path, progress=False)
    assert set(the_run.result["per_architecture"]) == set(settings["architectures"])
    losses = the_run.steps.query("step == 'train'")["loss"]
    assert len(losses) == 2 * experiment.clients and losses.between(0, 20).all()
    assert runner.again(the_run, progress=False) is True


def test_another_optimizer_ends_with_other_bytes(tmp_path):
    ends = [runner.run(make_experiment("digits", "alone", profile="smoke", rounds=1, samples=20, clients=1,
                                       test_items=20, architectures=["cnn2-8-8"], optimizer=optimizer),
                       tmp_path, progress=False).result for optimizer in ("adam", "rmsprop", "sgd")]
    assert len({end["final_bytes"] for end in ends}) == len({end["key"] for end in ends}) == 3
