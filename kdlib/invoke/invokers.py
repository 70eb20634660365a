"""Invokers: they run the Steps of a Stage somewhere and yield their Records."""

from collections.abc import Iterator
from typing import Protocol

from kdlib.errors import KdlibError
from kdlib.invoke.perform import Perform, measured, perform
from kdlib.invoke.steps import Record, Step
from kdlib.invoke.strategy import strategy_of
from kdlib.settings.experiment import Experiment
from kdlib.store.store import Store

Outcome = tuple[Step, Record | KdlibError]


class Invoker(Protocol):
    """Runs Steps somewhere and yields their Records as they come.

    name: as Records have it; store: URL below which its functions look for a run's objects, None: anywhere; patient:
    whether `attempt` can wait for late clients and give them up; replays: whether it reaches any store, so that a run
    can be repeated by it in an empty one.
    """

    name: str
    store: str | None
    patient: bool
    replays: bool

    def run(self, key: str, experiment: Experiment, store: Store, steps: list[Step]) -> Iterator[Record]:
        """Carry out the Steps of one Stage; the order of the Records is free. Raises at the first that fails."""
        ...

    def attempt(self, key: str, experiment: Experiment, store: Store, steps: list[Step]) -> Iterator[Outcome]:
        """What became of each Step, as they come; only what is `patient` reports a failed one instead of raising."""
        ...

    def cancel(self) -> None:
        """Give up what is waiting, from any thread."""
        ...

    def close(self) -> None:
        """Give up what is waiting, and let go of connections and processes."""
        ...


class Base:
    """What an Invoker does that waits for nobody."""

    name = ""
    store: str | None = None
    patient = False
    replays = True

    def run(self, key: str, experiment: Experiment, store: Store, steps: list[Step]) -> Iterator[Record]:
        """See Invoker.run."""
        raise NotImplementedError

    def attempt(self, key: str, experiment: Experiment, store: Store, steps: list[Step]) -> Iterator[Outcome]:
        """See Invoker.attempt."""
        for record in self.run(key, experiment, store, steps):
            yield Step(record.step, record.round, record.subject), record

    def cancel(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing is held."""


class Inline(Base):
    """One Step after another, in this process."""

    name = "inline"

    def __init__(self, perform: Perform = perform) -> None:
        self.perform = perform

    def run(self, key: str, experiment: Experiment, store: Store, steps: list[Step]) -> Iterator[Record]:
        """See Invoker.run."""
        for step in steps:
            yield measured(self.perform, key, experiment, store, step, self.name)


class Mixed(Base):
    """The Steps of workers by one Invoker, all others by another."""

    name = "mixed"

    def __init__(self, workers: Invoker, others: Invoker) -> None:
        self.workers, self.others = workers, others
        self.store, self.patient, self.replays = others.store, others.patient, others.replays

    def run(self, key: str, experiment: Experiment, store: Store, steps: list[Step]) -> Iterator[Record]:
        """See Invoker.run."""
        for invoker, its in self._shares(experiment, steps):
            yield from invoker.run(key, experiment, store, its)

    def attempt(self, key: str, experiment: Experiment, store: Store, steps: list[Step]) -> Iterator[Outcome]:
        """See Invoker.attempt."""
        for invoker, its in self._shares(experiment, steps):
            yield from invoker.attempt(key, experiment, store, its)

    def cancel(self) -> None:
        """Give up what either of them is waiting for."""
        self.workers.cancel()
        self.others.cancel()

    def close(self) -> None:
        """Close both."""
        self.workers.close()
        self.others.close()

    def _shares(self, experiment: Experiment, steps: list[Step]) -> Iterator[tuple[Invoker, list[Step]]]:
        strategy = strategy_of(experiment)
        for invoker, of_worker in ((self.workers, True), (self.others, False)):
            if its := [step for step in steps
                       if (strategy.carrier(step.name, step.subject) == "worker") == of_worker]:
                yield invoker, its
