"""The training loop of a Step, which is Lightning's: one model, one loss, one optimizer."""

import contextlib
import inspect
import logging
import os
import signal
import warnings
from collections.abc import Iterator
from typing import Literal

import lightning
import torch
from lightning.pytorch.plugins.environments import LightningEnvironment
from torch import Tensor, nn

from kdlib.learning.engine import Batches, KeepBest, Loss
from kdlib.learning.models import penalty
from kdlib.settings.experiment import Experiment

# Lightning's advice on loggers, workers and devices is for long trainings, not for a Step of a second.
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module="lightning.*")

PRECISION: dict[str, Literal["32-true", "bf16-mixed"]] = {"fp32": "32-true", "bf16": "bf16-mixed"}


class Training(lightning.LightningModule):
    """A model, a loss and the experiment's optimizer, a new one for each Step.

    total, batches: the sum of the losses, and how many.
    """

    def __init__(self, experiment: Experiment, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.experiment, self.model, self.loss = experiment, model, loss
        self.total: Tensor | float = 0.0
        self.batches = 0

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        x, target = batch
        loss = self.loss(self.model(x).float(), target) + penalty(self.model)
        self.total, self.batches = self.total + loss.detach(), self.batches + 1
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return optimizer(self.experiment, self.model)


def optimizer(experiment: Experiment, model: nn.Module) -> torch.optim.Optimizer:
    """Keras's Adam (eps 1e-7), its RMSprop (rho 0.9, eps 1e-7), or plain gradient descent (PAPER: Models)."""
    weights, rate = model.parameters(), experiment.learning_rate
    if experiment.optimizer == "rmsprop":
        return torch.optim.RMSprop(weights, lr=rate, alpha=0.9, eps=1e-7)
    if experiment.optimizer == "sgd":
        return torch.optim.SGD(weights, lr=rate)
    return torch.optim.Adam(weights, lr=rate, eps=1e-7, fused=experiment.device != "mps")


class Watch(lightning.Callback):
    """Shows the model to a KeepBest while it trains, and stops when that has seen enough."""

    def __init__(self, keep: KeepBest, model: nn.Module) -> None:
        self.keep, self.model = keep, model

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        if self.keep.every:
            self.keep.look(self.model)

    def on_train_batch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: object,
                           batch: object, batch_idx: int) -> None:
        if self.keep.every and trainer.global_step % self.keep.every == 0:
            trainer.should_stop = trainer.should_stop or self.keep.look(self.model)

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        if not self.keep.every:
            trainer.should_stop = trainer.should_stop or self.keep.look(self.model)


class Loop(lightning.Trainer):
    """Lightning's loop, which takes orders from its arguments alone.

    Lightning's own also obeys PL_TRAINER_* variables, a cluster's variables and signals (SLURM's have it load a stray
    hpc_ckpt_N.ckpt and ask for its job anew), and looks into the working directory.
    """

    __init__ = inspect.unwrap(lightning.Trainer.__init__)  # without the wrapper that reads PL_TRAINER_*

    def deafen(self) -> None:
        """Leave all signals to whoever had them, and have SLURM asked for no checkpoint."""
        self._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
        self._checkpoint_connector._select_ckpt_path = lambda *_, **__: None  # type: ignore[method-assign]


def run_trainer(module: Training, batches: Batches, epochs: int | None, steps: int | None,
                keep: KeepBest | None) -> None:
    """Train for `epochs`, or for `steps` batches over as many epochs as they need. Raises KeyboardInterrupt."""
    experiment = module.experiment
    trainer = Loop(
        accelerator=experiment.device, devices=1, precision=PRECISION[experiment.precision],
        max_epochs=epochs or -1, max_steps=steps or -1, callbacks=[Watch(keep, module.model)] if keep else None,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, use_distributed_sampler=False,
        plugins=[LightningEnvironment()], num_nodes=1, default_root_dir=os.devnull,  # in which nothing can be found
    )
    trainer.deafen()
    with _interruptible():
        trainer.fit(module, train_dataloaders=batches)
    module.model.to(experiment.device)  # Lightning takes it back to the CPU


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Lightning makes exit(1) of an interrupt, and has the process ignore the next one."""
    on_interrupt = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as stop:
        signal.signal(signal.SIGINT, on_interrupt)
        raise KeyboardInterrupt from stop
