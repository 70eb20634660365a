"""What cannot run is refused in one line, before anything is written."""

import pytest
import torch

from kdlib.errors import KdlibError
from kdlib.runs import run, runner
from kdlib.settings.experiment import make_experiment


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(KdlibError, match=r"holds no run: No such file or directory: experiment\.json"):
        run.load(tmp_path)
    (tmp_path / "experiment.json").write_text("{}")
    with pytest.raises(KdlibError, match="not an experiment"):
        run.load(tmp_path)


def test_nothing_is_written_for_an_experiment_that_cannot_run(tmp_path):
    too_many = make_experiment("digits", "alone", 1.0, profile="smoke", clients=900)
    with pytest.raises(KdlibError, match="too few for 900 clients"):
        runner.run(too_many, tmp_path / "runs", progress=False)
    assert not (tmp_path / "runs").exists()


UNFIT = """
from torch import nn

def few(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, num_classes - 1))

def unread(num_classes):
    return nn.Linear(5, num_classes)

def unbuilt(num_classes):
    raise MemoryError("no room")

def tied(num_classes):
    layer = nn.Linear(num_classes, num_classes)
    return nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, num_classes), layer, nn.ReLU(), layer)
"""


@pytest.mark.parametrize(("settings", "says"), [
    ({"architectures": ["nets:few"]}, r"nets:few does not fit task digits .*: of two items it makes .* not logits"),
    ({"architectures": ["cnn2-8-8", "nets:unread"]}, "nets:unread does not fit .*: RuntimeError"),
    ({"architectures": ["nets:unbuilt"]}, "nets:unbuilt does not fit .*: MemoryError: no room"),
    ({"architectures": ["nets:tied"]}, "nets:tied does not fit .*: its weights cannot be stored"),
    ({"device": "cuda"}, "device cuda: this machine has none that PyTorch can use; allowed here: cpu"),
])
def test_nothing_is_written_where_a_network_or_a_device_does_not_do(settings, says, plugin, tmp_path, monkeypatch):
    plugin("nets", UNFIT)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    experiment = make_experiment("digits", "feddf", profile="smoke", **settings)
    with pytest.raises(KdlibError, match=says) as error:
        runner.run(experiment, tmp_path / "runs", progress=False)
    assert "\n" not in str(error.value) and not (tmp_path / "runs").exists()
