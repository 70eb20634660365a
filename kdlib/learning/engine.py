"""The local engine: items become batches by index, models predict, are scored, and their best weights are kept.

Everything goes where the experiment's `device` is; nothing else here depends on it.
"""

import ctypes
import functools
import math
import platform
from collections.abc import Callable, Iterator
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdlib.errors import KdlibError
from kdlib.settings.experiment import Experiment
from kdlib.settings.task import TextTask
from kdlib.settings.vocabulary import UNKNOWN

PREDICT_BATCH = 128  # activations of more images than this no longer fit the cache of a small core

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h

Loss = Callable[[Tensor, Tensor], Tensor]


class Targets(Protocol):
    """A Tensor, or what makes its rows when they are asked for."""

    def __getitem__(self, rows: Tensor, /) -> Tensor: ...


@functools.cache
def keep_freed_memory() -> None:
    """Have glibc keep what a step frees for the next one: to map and clear it anew is a fifth of a step."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def inputs(experiment: Experiment, x: Tensor, device: str | torch.device | None = None) -> Tensor:
    """What a model takes of stored items, by their dtype: uint8 / 255 (PAPER: Tasks) or another `pixels` of the task,
    float32, or int64 of integers.

    x: (N, *task.shape); images (N, H, W[, C]) become (N, C, H, W), channels last in memory. device: where they go, the
    experiment's by default.
    """
    x = x.to(device or experiment.device)
    if experiment.task.items == "image":
        x = (x.unsqueeze(-1) if x.ndim == 3 else x).permute(0, 3, 1, 2)
    if x.dtype == torch.uint8:
        return x.float().div_(experiment.task.pixels)
    return x.float() if x.is_floating_point() else x.long()


def placed(experiment: Experiment, model: nn.Module) -> nn.Module:
    """The model on the experiment's device. Raises KdlibError where this machine has no such device."""
    if experiment.device != "cpu":
        expect_device(experiment.device)
    return model.to(experiment.device)


def expect_device(name: str) -> None:
    """Raises KdlibError where this machine has no such device."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there[name]:
        here = ", ".join(device for device, is_there in there.items() if is_there)
        raise KdlibError(f"device {name}: this machine has none that PyTorch can use; allowed here: {here}")


class Batches:
    """Seeded epochs over stored items and their targets, turned into batches by index.

    x: (N, *task.shape), see `inputs`; target: (N, ...); size: of a batch; seed: of the order, drawn anew in each epoch.
    The last batch is smaller; one of a single item, of which batch norm can make nothing, is left out. Batches are on
    the experiment's device.
    """

    def __init__(self, experiment: Experiment, x: Tensor, target: Targets, size: int, seed: int) -> None:
        self.experiment, self.x, self.target, self.size = experiment, x, target, size
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return max(1, math.ceil(len(self.x) / self.size) - (len(self.x) % self.size == 1))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.x), generator=self.generator)
        for rows in order.split(self.size)[: len(self)]:
            yield inputs(self.experiment, self.x[rows]), self.target[rows].to(self.experiment.device)


class KeepBest:
    """Score a model while it trains, keep the best weights, stop after `patience` scores without a gain.

    score: model -> float, higher is better; taken at every epoch's end, or before the first batch and after
    every `every` batches. A gain is more than `min_delta` over the best so far.
    """

    def __init__(self, score: Callable[[nn.Module], float], patience: int, min_delta: float = 0.0,
                 every: int | None = None) -> None:
        self.score, self.patience, self.min_delta, self.every = score, patience, min_delta, every
        self.best, self.scores, self.waited = -math.inf, 0, 0
        self.weights: dict[str, Tensor] | None = None

    def look(self, model: nn.Module) -> bool:
        """Score the model as it is now; True where patience is at its end."""
        score = self.score(model)
        self.scores += 1
        if score > self.best + self.min_delta or self.weights is None:
            self.best, self.waited = score, 0
            self.weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            return False
        self.waited += 1
        return self.waited >= self.patience


@torch.inference_mode()
def predict(experiment: Experiment, model: nn.Module, x: Tensor) -> Tensor:
    """Logits float32 (N, classes) of stored items (see `inputs`), in evaluation mode and the experiment's precision.

    They are where the model is.
    """
    keep_freed_memory()
    training = model.training
    model.eval()
    with torch.autocast(experiment.device, torch.bfloat16, enabled=experiment.precision == "bf16"):
        logits = torch.cat([model(inputs(experiment, part)).float() for part in x.split(PREDICT_BATCH)])
    model.train(training)
    return logits


def accuracy(experiment: Experiment, model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Top-1 accuracy, 0-1, over all the model's outputs, see `share_right`."""
    return share_right(experiment, predict(experiment, model, x), y)


def share_right(experiment: Experiment, logits: Tensor, y: Tensor) -> float:
    """How many of the logits' largest are right, 0-1. A text's UNKNOWN is never right: it is many characters."""
    right = logits.argmax(1).cpu() == y
    if isinstance(experiment.task, TextTask):
        right &= y != UNKNOWN
    return float(right.sum() / len(y))


def cross_entropy(experiment: Experiment, model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Mean cross-entropy in nats, without the penalty."""
    return float(F.cross_entropy(predict(experiment, model, x), y.to(experiment.device)))
