"""Carries out one Step, wherever it runs: its handlers, at the experiment's threads, seeded by the Step alone."""

import time

import torch

from kdlib.invoke.steps import Part, Step
from kdlib.settings.experiment import Experiment
from kdlib.store.store import Session, Store
from kdlib.strategies import alone, fedavg, feddf, fedmd

STRATEGIES = {"fedmd": fedmd, "feddf": feddf, "alone": alone, "fedavg": fedavg}
SCRATCH = ("digested",)  # what only the next Step of a fused invocation reads


def perform(experiment: Experiment, store: Store, step: Step) -> list[Part]:
    """One Part for each Step that `step` consists of; the parts of a fused one share what they read and wrote."""
    torch.set_num_threads(experiment.threads)
    handlers = STRATEGIES[experiment.strategy].HANDLERS
    place = Session(store, SCRATCH) if len(step.parts) > 1 else store
    return [_perform_one(handlers[part.name], experiment, place, part) for part in step.parts]


def _perform_one(handler, experiment, store, step) -> Part:
    clock = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(experiment.entropy(step.round, step.subject, step.name))
        metrics = handler(experiment, store, step.round, step.subject)
    return Part(step=step.name, round=step.round, seconds=time.perf_counter() - clock, metrics=metrics)
