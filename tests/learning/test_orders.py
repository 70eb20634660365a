"""The training loop takes no orders that it was not given: by the environment, the working directory, or a signal."""

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import lightning
import pytest
import torch
import torch.nn.functional as F
from pictures import pictures

from kdlib.learning import client, engine
from kdlib.settings.experiment import make_experiment
from made import net, task

SLURM = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_JOB_NAME": "night", "SLURM_PROCID": "0", "SLURM_LOCALID": "0",
         "SLURM_NODEID": "0", "SLURM_NODELIST": "localhost"}
CLUSTERS = {
    "none": {},
    "slurm": SLURM,
    "slurm with four tasks": SLURM | {"SLURM_NTASKS": "4", "SLURM_PROCID": "3"},
    "torchelastic": {"TORCHELASTIC_RUN_ID": "1", "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "4",
                     "GROUP_RANK": "0", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "1"},
    "lsf": {"LSB_JOBID": "1", "LSB_DJOB_RANKFILE": "/nowhere", "JSM_NAMESPACE_LOCAL_RANK": "1",
            "JSM_NAMESPACE_SIZE": "4", "JSM_NAMESPACE_RANK": "1"},
    "kubeflow": {"KUBERNETES_PORT": "tcp://10.0.0.1:443", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "1",
                 "WORLD_SIZE": "4", "RANK": "1"},
    "mpi": {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4", "PMI_RANK": "1"},
    "Lightning's own variables": {"PL_TRAINER_MAX_EPOCHS": "1", "PL_TRAINER_GRADIENT_CLIP_VAL": "0.001",
                                  "PL_TRAINER_LIMIT_TRAIN_BATCHES": "1", "PL_TRAINER_FAST_DEV_RUN": "1",
                                  "PL_TRAINER_ACCUMULATE_GRAD_BATCHES": "3", "PL_GLOBAL_SEED": "5"},
    "Fabric's own variables": {"LT_CLI_USED": "1", "LT_DEVICES": "4", "LT_NUM_NODES": "3", "LT_PRECISION": "bf16-mixed",
                               "LT_STRATEGY": "ddp", "LT_ACCELERATOR": "gpu"},
}


def fitted(loss=F.cross_entropy, epochs=3):
    """A small network after some epochs: the hash of its weights."""
    torch.manual_seed(3)
    experiment = make_experiment("digits", "feddf", 1.0, profile="smoke")
    x, y = pictures(24)
    model = net("cnn2-4-6", task((12, 12)), 3)
    metrics = client.fit(experiment, model, engine.Batches(experiment, x, y, 8, seed=5), loss, epochs=epochs)
    assert metrics["batches"] == 3 * epochs
    weights = b"".join(tensor.detach().numpy().tobytes() for tensor in model.state_dict().values())
    return hashlib.sha256(weights).hexdigest()


class Other(lightning.LightningModule):
    """Another training, of the same network."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def training_step(self, batch, _):
        return F.cross_entropy(self.model(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """What Lightning leaves of another training in a job that is ended."""
    experiment = make_experiment("digits", "feddf", 1.0, profile="smoke")
    module = Other(net("cnn2-4-6", task((12, 12)), 3, seed=9))
    x, y = pictures(24)
    trainer = lightning.Trainer(accelerator="cpu", max_epochs=2, logger=False, enable_progress_bar=False,
                                enable_model_summary=False, enable_checkpointing=False)
    trainer.fit(module, train_dataloaders=engine.Batches(experiment, x, y, 8, seed=1))
    path = tmp_path_factory.mktemp("job") / "hpc_ckpt_1.ckpt"
    trainer.save_checkpoint(path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def wanted():
    return fitted()


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_a_training_ends_with_the_same_bytes_inside_any_clusters_job(cluster, checkpoint, wanted, tmp_path):
    (tmp_path / "hpc_ckpt_1.ckpt").write_bytes(checkpoint)
    code = f"import sys; sys.path[:0] = {sys.path!r}; import test_orders; print(test_orders.fitted())"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=os.environ | CLUSTERS[cluster],
                          capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == wanted
    assert [path.name for path in tmp_path.iterdir()] == ["hpc_ckpt_1.ckpt"], "something was written there"


def test_a_working_directory_that_is_gone_is_not_missed(wanted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tmp_path.rmdir()
    with pytest.raises(FileNotFoundError):
        Path.cwd()
    assert fitted() == wanted


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_goes_to_whoever_had_it_and_the_training_goes_on(number, wanted, monkeypatch):
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    came = []

    def loss(logits, target):
        if not came:
            assert signal.getsignal(number) is handler, "the loop has put its own in its place"
            os.kill(os.getpid(), number)
        return F.cross_entropy(logits, target)

    def handler(*_):
        came.append(number)

    before = signal.signal(number, handler)
    try:
        assert fitted(loss) == wanted
        assert came == [number] and signal.getsignal(number) is handler
    finally:
        signal.signal(number, before)
