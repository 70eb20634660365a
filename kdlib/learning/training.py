"""The training loop of a Step, by Lightning's Fabric: one model, one loss, one optimizer."""

import functools
import itertools
import logging
import os
import warnings
from typing import Literal

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments import LightningEnvironment
from torch import Tensor, nn

from kdlib.learning.engine import Batches, KeepBest, Loss
from kdlib.learning.models import penalty
from kdlib.settings.experiment import Experiment

# Lightning's advice on devices is for long trainings, not for a Step of a second.
logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module="lightning.*")

PRECISION: dict[str, Literal["32-true", "bf16-mixed"]] = {"fp32": "32-true", "bf16": "bf16-mixed"}


def train(experiment: Experiment, model: nn.Module, batches: Batches, loss: Loss, epochs: int | None,
          steps: int | None, keep: KeepBest | None) -> tuple[float, int]:
    """Train in place for `epochs`, or for `steps` batches, by a new optimizer; the mean loss, and how many batches.

    loss: (logits float32, targets) -> the batch's; the model's penalty is added. keep: is shown the model as it asks
    for it, and may end the training early.
    """
    fabric = _fabric(experiment.device, experiment.precision)
    wrapped, optimizer = fabric.setup(model, make_optimizer(experiment, model))
    total: Tensor | float = 0.0
    done, stop = 0, False
    if keep and keep.every:
        keep.look(model)
    for epoch in itertools.count(1):
        for x, target in batches:
            optimizer.zero_grad()
            value = loss(wrapped(x).float(), target) + penalty(model)
            fabric.backward(value)
            optimizer.step()
            total, done = total + value.detach(), done + 1
            stop = bool(keep and keep.every and done % keep.every == 0 and keep.look(model)) or done == steps
            if stop:
                break
        if keep and not keep.every:
            stop = keep.look(model) or stop
        if stop or epoch == epochs:
            return float(total / done), done
    raise AssertionError  # neither epochs nor steps


def make_optimizer(experiment: Experiment, model: nn.Module) -> torch.optim.Optimizer:
    """Keras's Adam (eps 1e-7), its RMSprop (rho 0.9, eps 1e-7), or plain gradient descent (PAPER: Models)."""
    weights, rate = model.parameters(), experiment.learning_rate
    if experiment.optimizer == "rmsprop":
        return torch.optim.RMSprop(weights, lr=rate, alpha=0.9, eps=1e-7)
    if experiment.optimizer == "sgd":
        return torch.optim.SGD(weights, lr=rate)
    return torch.optim.Adam(weights, lr=rate, eps=1e-7, fused=experiment.device != "mps")


@functools.cache
def _fabric(device: str, precision: str) -> Fabric:
    """One a process: to make it takes longer than a short Step's work.

    It takes no orders but these: neither a cluster's variables nor those of Fabric's own command line are looked for.
    """
    orders = {name: os.environ.pop(name) for name in [*os.environ] if name.startswith("LT_")}
    try:
        return Fabric(accelerator=device, devices=1, precision=PRECISION[precision], plugins=[LightningEnvironment()])
    finally:
        os.environ.update(orders)
