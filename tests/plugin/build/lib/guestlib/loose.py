"""What the package offers without an entry point: DS-FL's own baseline, and the smallest network there is."""

import dataclasses
import functools
import math

import torch
from torch import nn

import kdlib
from guestlib import dsfl
from guestlib.guestnet import begin
from kdlib import Store, Task, named


class Plain(dsfl.DSFL):
    """Settings of DS-FL with simple averaging: the mean is exchanged as it is."""


def sharpen(experiment: Plain, store: Store, round_: int, server: str) -> dict[str, float]:
    """t = 1/C sum_c t_c: simple aggregation (Itahara et al., 2021)."""
    clients = kdlib.in_time(store, round_, "predict", experiment.client_names)
    average = kdlib.mean([kdlib.read_logits(experiment, store, client, round_, *dsfl.KIND) for client in clients])
    store.put(named("public", round_, "consensus"), {"probabilities": average})
    return {"clients": len(clients), "entropy": dsfl.entropy(average)}


PLAIN = dataclasses.replace(
    dsfl.STRATEGY, name="dsfl-plain", title="DS-FL, plain mean", settings=Plain,
    steps=tuple(dataclasses.replace(step, handler=sharpen) if step.name == "sharpen" else step
                for step in dsfl.STRATEGY.steps))


def flat(task: Task, classes: int, width: float, generator: torch.Generator) -> nn.Module:
    """Softmax regression."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(task.shape), classes)).apply(
        functools.partial(begin, generator=generator))
