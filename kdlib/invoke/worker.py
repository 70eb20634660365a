"""What a worker process is sent, and what it answers: for Invokers that have processes beside this one."""

import functools
import time
from pathlib import Path
from typing import NamedTuple

from kdlib import registry
from kdlib.invoke.perform import Perform, measured
from kdlib.invoke.steps import Record, Step
from kdlib.invoke.strategy import expect_sources
from kdlib.learning.models import work
from kdlib.settings.experiment import Experiment, from_json
from kdlib.store.store import Store


class Errand(NamedTuple):
    """All that a worker needs of a run.

    plugins, sources: those of the driving process, which alone says what a worker may import, and which version of it;
    place: the store's.
    """

    key: str
    settings: str
    plugins: tuple[str, ...]
    sources: tuple[tuple[str, str], ...]
    place: str | Path


def errand(key: str, experiment: Experiment, store: Store) -> Errand:
    """What workers have to know of the run."""
    return Errand(key, experiment.model_dump_json(), tuple(registry.plugins()), tuple(experiment.sources.items()),
                  store.place)


def carry_out(perform: Perform, sent: Errand, step: Step, backend: str) -> tuple[str, float]:
    """In a worker: the Step's Record as JSON, and when it was done; what was read is kept for the next Step."""
    experiment = _experiment(sent.settings, sent.plugins, sent.sources)
    record = measured(perform, sent.key, experiment, _store(sent.place), Step(*step), backend)
    return record.model_dump_json(), time.time()


def answered(text: str, ended: float) -> Record:
    """The Record that `carry_out` sent, with the time that it took to come."""
    return Record.model_validate_json(text).model_copy(update={"around": max(0.0, time.time() - ended)})


def largest_first(experiment: Experiment, steps: list[Step]) -> list[int]:
    """The steps' numbers, by the work of their models: so that at a Stage's end no CPU waits long for another."""
    models = {*experiment.client_names, *experiment.architectures}

    def size(number: int) -> int:
        subject = steps[number].subject
        return work(experiment, experiment.architecture_of(subject)) if subject in models else 0

    return sorted(range(len(steps)), key=size, reverse=True)


@functools.lru_cache(maxsize=4)
def _experiment(settings: str, plugins: tuple[str, ...], sources: tuple[tuple[str, str], ...]) -> Experiment:
    for plugin in plugins:
        registry.load(plugin)
    experiment = from_json(settings)
    expect_sources(experiment, dict(sources))
    return experiment


_store = functools.lru_cache(maxsize=1)(Store)
