"""Step, Stage and Record: what is to be done, and what was."""

from collections.abc import Callable
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict


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
    def joined(parts: list["Step"]) -> "Step":
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
    backend: Literal["inline", "processes", "ray", "http"]
    parts: tuple[Part, ...]

    @property
    def done(self) -> dict[Step, Part]:
        """The Steps that this row is about."""
        return {Step(part.step, part.round, self.subject): part for part in self.parts}


Handler = Callable[..., dict[str, float]]
"""Carries out a Step for (experiment, store, round, subject) and returns its metrics. Stateless and idempotent."""
