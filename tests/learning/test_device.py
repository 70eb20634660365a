"""Where tensors go: everything follows the experiment's `device`, and a device that is not there is refused."""

import pytest
import torch

from kdlib.errors import KdlibError
from kdlib.learning import client, engine, layers, models
from kdlib.registry import STRATEGIES
from kdlib.runs import runner
from kdlib.settings.experiment import make_experiment

AWAY = [name for name, there in (("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available()))
        if not there]
SETTINGS = {"profile": "smoke", "rounds": 1}


@pytest.mark.parametrize("device", AWAY)
def test_a_device_that_is_not_here_is_refused_before_anything_is_written(device, tmp_path):
    experiment = make_experiment("digits", "feddf", 1.0, device=device, **SETTINGS)
    with pytest.raises(KdlibError, match=f"device {device}: this machine has none that PyTorch can use; allowed here"):
        runner.run(experiment, tmp_path / "runs", progress=False)
    assert not (tmp_path / "runs").exists()


def test_the_device_decides_the_key():
    hashes = {"data": "0"}
    keys = {make_experiment("digits", "feddf", 1.0, device=device, **SETTINGS).key(hashes)
            for device in ("cpu", "cuda", "mps")}
    assert len(keys) == 3


def test_items_go_where_the_model_is():
    """`meta` stands for any other device: shapes and places are followed there, nothing is computed."""
    experiment = make_experiment("digits", "feddf", 1.0, **SETTINGS)
    there = experiment.model_copy(update={"device": "meta"})
    x, y = torch.zeros(5, 28, 28, dtype=torch.uint8), torch.zeros(5, dtype=torch.int64)
    places = [tensor.device.type for batch in engine.Batches(there, x, y, 2, 0) for tensor in batch]
    assert set(places) == {"meta"} and len(places) == 4
    model = models.start(experiment, "cnn2-128-256").to("meta")
    assert model(engine.inputs(there, x)).device.type == "meta"


def test_dropout_off_the_cpu_is_pytorchs_own():
    dropout = layers.ReLUDropout().train()
    assert dropout(torch.ones(4, 3, device="meta")).shape == (4, 3)  # ours would ask for the numbers themselves


def test_a_mean_is_made_where_the_tensors_are():
    one = torch.ones(3, device="meta")
    assert client.mean([one, one]).device.type == "meta"


def test_an_optimizer_is_fused_wherever_that_is_had():
    from kdlib.learning.training import make_optimizer

    experiment = make_experiment("digits", "feddf", 1.0, **SETTINGS)
    model = models.start(experiment, "cnn2-128-256")
    assert make_optimizer(experiment, model).defaults["fused"] is True
    assert not make_optimizer(experiment.model_copy(update={"device": "mps"}), model).defaults["fused"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here: device=cuda is untested")
@pytest.mark.parametrize("strategy", STRATEGIES.names())
def test_on_a_gpu_a_run_ends_with_the_same_bytes_twice(strategy, tmp_path):
    experiment = make_experiment("digits", strategy, 1.0, device="cuda", **SETTINGS)
    assert runner.again(runner.run(experiment, tmp_path, progress=False), progress=False)
