"""Carries out one Step, wherever it runs: its handlers, at the experiment's threads, seeded by the Step alone."""

import time
from collections.abc import Callable

from pydantic import ValidationError

from kdlib.errors import KdlibError
from kdlib.invoke.steps import Handler, Part, Record, Step
from kdlib.invoke.strategy import strategy_of
from kdlib.learning.determinism import pinned, seeded
from kdlib.machine import peak_memory
from kdlib.settings.experiment import Experiment
from kdlib.store.store import Session, Store
from kdlib.toml import one_line

Perform = Callable[[Experiment, Store, Step], list[Part]]
"""Finds the handlers of a Step's parts, seeds them and runs them."""


def perform(experiment: Experiment, store: Store, step: Step) -> list[Part]:
    """One Part for each Step that `step` consists of; the parts of a fused one share what they read and wrote."""
    with pinned(experiment.threads, experiment.device):
        strategy = strategy_of(experiment)
        handlers = {part.name: strategy.step(part.name).handler for part in step.parts}
        place = Session(store, strategy.scratch) if len(step.parts) > 1 else store
        return [_perform_one(handlers[part.name], experiment, place, part) for part in step.parts]


def _perform_one(handler: Handler, experiment: Experiment, store: Store | Session, step: Step) -> Part:
    clock = time.perf_counter()
    with seeded(experiment.entropy(step.round, step.subject, step.name), experiment.device):
        metrics = handler(experiment, store, step.round, step.subject)
    try:
        return Part(step=step.name, round=step.round, seconds=time.perf_counter() - clock, metrics=metrics)
    except ValidationError as error:
        raise KdlibError(f"{step.name} of {step.subject} returned no metrics: {one_line(error)}") from error


_warm = False


def measured(perform: Perform, key: str, experiment: Experiment, store: Store, step: Step, backend: str) -> Record:
    """Carry out one Step here and record what it took. `around` is left at 0 for a caller that knows more."""
    global _warm
    cold, _warm = not _warm, True
    before = store.bytes_in, store.bytes_out
    started, clock = time.time(), time.perf_counter()
    parts = perform(experiment, store, step)
    return Record(
        run=key, round=step.round, step=step.name, subject=step.subject, started=started,
        seconds=time.perf_counter() - clock, around=0.0, cold=cold,
        bytes_in=store.bytes_in - before[0], bytes_out=store.bytes_out - before[1],
        peak_memory=peak_memory(),
        threads=experiment.threads, backend=backend, parts=tuple(parts),
    )
