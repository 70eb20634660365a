"""The local engine: items become batches by index, models predict, are scored, and their best weights are kept."""

import ctypes
import functools
import math
import platform
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from kdlib.learning.models import Model
from kdlib.settings.experiment import Experiment

PREDICT_BATCH = 128  # activations of more images than this no longer fit the cache of a small core

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h

Loss = Callable[[Tensor, Tensor], Tensor]


@functools.cache
def keep_freed_memory() -> None:
    """Have glibc keep what a step frees for the next one: to map and clear it anew is a fifth of a step."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def images(x: Tensor) -> Tensor:
    """uint8 (N, H, W[, C]) -> float32 (N, C, H, W) in 0-1, channels last in memory (PAPER: pixels/255)."""
    x = x.unsqueeze(-1) if x.ndim == 3 else x
    return x.permute(0, 3, 1, 2).float().div_(255)


def inputs(x: Tensor) -> Tensor:
    """What a model takes of stored items: pixels of `images`, or of texts, uint8 (N, window), int64 characters."""
    return x.long() if x.ndim == 2 else images(x)


class Batches:
    """Seeded epochs over uint8 items and their targets, turned into batches by index.

    x: uint8 (N, H, W[, C]) or (N, window); target: (N, ...); size: of a batch; seed: of the order, drawn anew in each
    epoch. The last batch is smaller; one of a single item, of which batch norm can make nothing, is left out.
    """

    def __init__(self, x: Tensor, target: Tensor, size: int, seed: int):
        self.x, self.target, self.size = x, target, size
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return max(1, math.ceil(len(self.x) / self.size) - (len(self.x) % self.size == 1))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.x), generator=self.generator)
        for rows in order.split(self.size)[: len(self)]:
            yield inputs(self.x[rows]), self.target[rows]


class KeepBest:
    """Score a model while it trains, keep the best weights, stop after `patience` scores without a gain.

    score: model -> float, higher is better; taken at every epoch's end, or before the first batch and after
    every `every` batches. A gain is more than `min_delta` over the best so far.
    """

    def __init__(self, score: Callable[[Model], float], patience: int, min_delta: float = 0.0,
                 every: int | None = None):
        self.score, self.patience, self.min_delta, self.every = score, patience, min_delta, every
        self.best, self.weights, self.scores, self.waited = -math.inf, None, 0, 0

    def look(self, model: Model) -> bool:
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
def predict(experiment: Experiment, model: Model, x: Tensor) -> Tensor:
    """Logits float32 (N, classes) of stored items (see `inputs`), in evaluation mode and the experiment's precision."""
    keep_freed_memory()
    training = model.training
    model.eval()
    with torch.autocast(experiment.device, torch.bfloat16, enabled=experiment.precision == "bf16"):
        logits = torch.cat([model(inputs(part)).float() for part in x.split(PREDICT_BATCH)])
    model.train(training)
    return logits


def accuracy(experiment: Experiment, model: Model, x: Tensor, y: Tensor) -> float:
    """Top-1 accuracy, 0-1, over all the model's outputs."""
    return float((predict(experiment, model, x).argmax(1) == y).sum() / len(y))


def cross_entropy(experiment: Experiment, model: Model, x: Tensor, y: Tensor) -> float:
    """Mean cross-entropy in nats, without the penalty."""
    return float(F.cross_entropy(predict(experiment, model, x), y))
