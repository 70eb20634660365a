"""An MLP for rows of numbers, for which kdlib has no network."""

import functools
import math

import torch
from torch import nn

from guestlib.guestnet import begin
from kdlib import Network, Task


def rowsnet(task: Task, classes: int, width: float, generator: torch.Generator, units: int) -> nn.Module:
    """One hidden layer of `units` times `width`. forward: float32 (N, *task.shape) -> logits float32 (N, classes)."""
    hidden = max(4, round(units * width))
    model = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(task.shape), hidden), nn.ReLU(), nn.Linear(hidden, classes))
    return model.apply(functools.partial(begin, generator=generator))


NETWORK = Network(rowsnet, items="other", sizes=1)
