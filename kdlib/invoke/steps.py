"""Step, Stage and Record: what is to be done, and what was."""

from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

# What a Record may say, whoever sent it; far above what any run has, and so that sums stay finite.
Round = Annotated[int, Field(ge=0, le=999)]
Seconds = Annotated[float, Field(ge=0, le=1e10, allow_inf_nan=False)]
Bytes = Annotated[int, Field(ge=0, lt=2**53)]
StepName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}([+>][a-z][a-z0-9_]{0,39}){0,15}$")]
Subject = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.:-]{0,119}$")]
Metric = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]


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

    step: StepName
    round: Round
    seconds: Seconds
    metrics: Annotated[dict[Metric, float], Field(max_length=64)]


class Record(BaseModel):
    """One row per invocation.

    started: Unix time; seconds: in the function; around: the caller's time beyond that, in seconds; queue: seconds of
    `around` between the caller's send and the function's start; cold: the first invocation of its process;
    bytes_in, bytes_out: through the Store; peak_memory: of the process so far, in bytes; threads: of torch; backend:
    the Invoker; parts: one for each Step carried out, in order, several in a fused invocation (metrics: see
    kdlib.invoke.metrics).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: Annotated[str, Field(min_length=1, max_length=64)]
    round: Round
    step: StepName
    subject: Subject
    started: Seconds
    seconds: Seconds
    around: Seconds
    queue: Seconds = 0.0
    cold: bool
    bytes_in: Bytes
    bytes_out: Bytes
    peak_memory: Bytes
    threads: Annotated[int, Field(ge=1, le=256)]
    backend: Literal["inline", "processes", "ray", "http"]
    parts: tuple[Part, ...]

    @model_validator(mode="after")
    def _its_parts_are_its_steps(self) -> Self:
        wanted = Step(self.step, self.round, self.subject).parts
        if [Step(part.step, part.round, self.subject) for part in self.parts] != wanted:
            raise ValueError(f"the parts of {self.step} are of other Steps")
        return self

    @property
    def done(self) -> dict[Step, Part]:
        """The Steps that this row is about."""
        return {Step(part.step, part.round, self.subject): part for part in self.parts}


Handler = Callable[..., dict[str, float]]
"""Carries out a Step for (experiment, store, round, subject) and returns its metrics. Stateless and idempotent."""
