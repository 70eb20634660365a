"""Step, Stage and Record, and the Invokers that turn the first two into the third."""

import time
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict

from kdlib.machine import peak_memory
from kdlib.settings.experiment import Experiment
from kdlib.store.store import Store


class Step(NamedTuple):
    """One unit of serverless work: what is done, in which round (0: before the first), and by or for whom.

    `digest+revisit` is one invocation that carries out two Steps; after `>` the next round's follow.
    """

    name: str
    round: int
    subject: str

    @property
    def parts(self) -> list["Step"]:
        """The Steps that it carries out, in order: itself alone unless it is fused."""
        return [Step(name, self.round + later, self.subject)
                for later, names in enumerate(self.name.split(">")) for name in names.split("+")]

    @staticmethod
    def fused(parts: list["Step"]) -> "Step":
        """The Step whose `parts` these are: of one subject, in order, of one round and perhaps the next."""
        rounds = [[part.name for part in parts if part.round == number] for number in sorted({p.round for p in parts})]
        return Step(">".join("+".join(names) for names in rounds), parts[0].round, parts[0].subject)


class Stage(NamedTuple):
    """Steps of one name that may run side by side."""

    name: str
    subjects: tuple[str, ...]
    round: int = 0

    @property
    def steps(self) -> list[Step]:
        """One Step a subject, in the subjects' order."""
        return [Step(self.name, self.round, subject) for subject in self.subjects]


class Part(BaseModel):
    """What one Step of an invocation did: its seconds, and what its handler measured."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")  # a loss may diverge

    step: str
    round: int
    seconds: float
    metrics: dict[str, float]


class Record(BaseModel):
    """One row per invocation.

    started: Unix time; seconds: in the function; around: the caller's time beyond that, in seconds; queue: seconds of
    `around` between the caller's send and the function's start; cold: the first invocation of its process;
    bytes_in, bytes_out: through the Store; peak_memory: of the process so far, in bytes; threads: of torch; backend:
    the Invoker; parts: one for each Step carried out, several in a fused invocation (metrics: accuracy 0-1, losses,
    items, batches).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str
    round: int
    step: str
    subject: str
    started: float
    seconds: float
    around: float
    queue: float = 0.0
    cold: bool
    bytes_in: int
    bytes_out: int
    peak_memory: int
    threads: int
    backend: Literal["inline", "ray", "http"]
    parts: tuple[Part, ...]

    @property
    def done(self) -> dict[Step, Part]:
        """The Steps that this row is about."""
        return {Step(part.step, part.round, self.subject): part for part in self.parts}


Handler = Callable[[Experiment, Store, int, str], dict[str, float]]
"""Carries out a Step for (experiment, store, round, subject) and returns its metrics. Stateless and idempotent."""

Perform = Callable[[Experiment, Store, Step], list[Part]]
"""Finds the handlers of a Step's parts, seeds them and runs them."""


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


class Mixed:
    """Each Step by the Invoker of its name: Mixed({"pretrain": ray}, http)."""

    name = "mixed"

    def __init__(self, others: dict[str, Invoker], default: Invoker):
        self.others, self.default = others, default
        self.store = getattr(default, "store", None)

    def run(self, key, experiment, store, steps):
        """See Invoker.run."""
        for invoker, its in self._shares(steps):
            yield from invoker.run(key, experiment, store, its)

    def attempt(self, key, experiment, store, steps):
        """(Step, Record or KdlibError) as they come; an Invoker without `attempt` raises what goes wrong."""
        for invoker, its in self._shares(steps):
            if hasattr(invoker, "attempt"):
                yield from invoker.attempt(key, experiment, store, its)
            else:
                for record in invoker.run(key, experiment, store, its):
                    yield Step(record.step, record.round, record.subject), record

    def cancel(self):
        """Give up what those that can be given up are waiting for."""
        for invoker in self._invokers:
            getattr(invoker, "cancel", lambda: None)()

    def close(self):
        """Close those that can be closed."""
        for invoker in self._invokers:
            getattr(invoker, "close", lambda: None)()

    @property
    def _invokers(self):
        return list({id(invoker): invoker for invoker in (*self.others.values(), self.default)}.values())

    def _shares(self, steps):
        for invoker in self._invokers:
            if its := [step for step in steps if self.others.get(step.name, self.default) is invoker]:
                yield invoker, its


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
        threads=experiment.threads, backend=backend, parts=parts,
    )
