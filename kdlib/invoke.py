"""Step, Stage and Record, and the Invokers that turn the first two into the third."""

import resource
import time
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict

from kdlib.experiment import Experiment
from kdlib.store import Store


class Step(NamedTuple):
    """One unit of serverless work: what is done, in which round (0: before the first), and by or for whom."""

    name: str
    round: int
    subject: str


class Stage(NamedTuple):
    """Steps of one name that may run side by side."""

    name: str
    subjects: tuple[str, ...]
    round: int = 0

    @property
    def steps(self) -> list[Step]:
        """One Step a subject, in the subjects' order."""
        return [Step(self.name, self.round, subject) for subject in self.subjects]


class Record(BaseModel):
    """One row per invocation.

    started: Unix time; seconds: in the function; around: the caller's time beyond that, in seconds; cold: the first
    invocation of its process; bytes_in, bytes_out: through the Store; peak_memory: of the process so far, in bytes;
    threads: of torch; backend: the Invoker; metrics: what the handler measured (accuracy 0-1, losses, items, epochs).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")  # a loss may diverge

    run: str
    round: int
    step: str
    subject: str
    started: float
    seconds: float
    around: float
    cold: bool
    bytes_in: int
    bytes_out: int
    peak_memory: int
    threads: int
    backend: Literal["inline"]
    metrics: dict[str, float]

    @property
    def done(self) -> Step:
        """The Step that this row is about."""
        return Step(self.step, self.round, self.subject)


Handler = Callable[[Experiment, Store, int, str], dict[str, float]]
"""Carries out a Step for (experiment, store, round, subject) and returns its metrics. Stateless and idempotent."""

Perform = Callable[[Experiment, Store, Step], dict[str, float]]
"""Finds a Step's handler, seeds it and runs it."""


class Invoker(Protocol):
    """Runs Steps somewhere and yields their Records as they come."""

    name: str

    def run(self, key: str, experiment: Experiment, store: Store, steps: list[Step]) -> Iterator[Record]:
        """Carry out the Steps of one Stage; the order of the Records is free."""
        ...


class Inline:
    """One Step after another, in this process."""

    name = "inline"

    def __init__(self, perform: Perform):
        self.perform = perform

    def run(self, key, experiment, store, steps):
        """See Invoker.run."""
        for step in steps:
            yield measured(self.perform, key, experiment, store, step, self.name)


_warm = False


def measured(perform: Perform, key: str, experiment: Experiment, store: Store, step: Step, backend: str) -> Record:
    """Carry out one Step here and record what it took. `around` is left at 0 for a caller that knows more."""
    global _warm
    cold, _warm = not _warm, True
    before = store.bytes_in, store.bytes_out
    started, clock = time.time(), time.perf_counter()
    metrics = perform(experiment, store, step)
    return Record(
        run=key, round=step.round, step=step.name, subject=step.subject, started=started,
        seconds=time.perf_counter() - clock, around=0.0, cold=cold,
        bytes_in=store.bytes_in - before[0], bytes_out=store.bytes_out - before[1],
        peak_memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        threads=experiment.threads, backend=backend, metrics=metrics,
    )
