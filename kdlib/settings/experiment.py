"""Everything that decides a run's result, in one frozen, validated value."""

import difflib
import functools
import hashlib
import json
import operator
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from kdlib.errors import KdlibError
from kdlib.machine import bf16_pays
from kdlib.settings.profiles import PROFILES, TEXT_PROFILES
from kdlib.settings.stragglers import Fail, Slow
from kdlib.settings.task import Task, TextTask, load_settings, load_task
from kdlib.settings.zoo import ZOO, ZOOS, expect_architecture
from kdlib.toml import one_line

Count = Annotated[int, Field(ge=1)]
Batch = Annotated[int, Field(ge=2)]  # batch norm can make nothing of one item
Cap = Annotated[int, Field(ge=2)] | None
Rate = Annotated[float, Field(gt=0, le=1)]
Architecture = Annotated[str, Field(max_length=64), AfterValidator(expect_architecture)]


class Experiment(BaseModel):
    """What every strategy needs. The defaults are the paper's numbers (PAPER: Tasks, Models).

    alpha: concentration of the Dirichlet law; small is far from IID. None where the task's roles are the clients.
    seed: the one source of every random number of the run.
    architectures: `cnnL-n1-..-nL`, the filters of each convolution, or for texts `lstmL-n`, L layers of n units; client
    i has architecture i mod their number.
    width: factor on every number of filters or units.
    samples: private training items of a client at most; None takes all there are.
    windows: of texts, which ones those are: drawn at random, the most recent, or spread evenly over the role's lines.
    test_items: private test items that an evaluation uses at most; None takes all.
    batch, learning_rate: of training on private data (Adam).
    batch_norm_momentum: in PyTorch's sense; Keras's 0.99 is 0.01 here.
    threads: torch threads of one Step. They decide the last bits, so they belong here; so do device and precision.
    precision: of convolutions and products in training and prediction; weights, losses and sums stay float32. `auto`
    becomes bf16 where that is the faster one on this CPU, else fp32, before anything else sees it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: Task | TextTask
    alpha: Annotated[float, Field(gt=0, le=1e6)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    clients: Annotated[int, Field(ge=1, le=10_000)] = 100
    rounds: Annotated[int, Field(ge=1, le=999)] = 20
    architectures: Annotated[tuple[Architecture, ...], Field(min_length=1)] = ZOO
    width: Annotated[float, Field(gt=0, le=4)] = 1.0
    samples: Cap = None
    windows: Literal["drawn", "recent", "spread"] = "drawn"
    test_items: Cap = None
    batch: Batch = 32
    learning_rate: Rate = 1e-3
    batch_norm_momentum: Rate = 0.01
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    device: Literal["cpu"] = "cpu"
    precision: Literal["fp32", "bf16"] = "fp32"

    labelled_public: ClassVar[bool] = False

    @field_validator("precision", mode="before")
    @classmethod
    def _resolved(cls, precision):
        return ("bf16" if bf16_pays() else "fp32") if precision == "auto" else precision

    @field_validator("architectures")
    @classmethod
    def _distinct(cls, architectures):
        if len(set(architectures)) != len(architectures):
            raise ValueError(f"an architecture is named twice: {', '.join(architectures)}")
        return architectures

    @model_validator(mode="after")
    def _every_architecture_has_a_client(self):
        if self.clients < len(self.architectures):
            raise ValueError(f"{self.clients} clients cannot have {len(self.architectures)} architectures; "
                             f"allowed: clients of at least {len(self.architectures)}, or fewer architectures")
        return self

    @model_validator(mode="after")
    def _alpha_shares_images_out_and_roles_do_texts(self):
        if self.task.by_roles and self.alpha is not None:
            raise ValueError(f"task {self.task.name} has no alpha, its roles are the clients; allowed: none")
        if not self.task.by_roles and self.alpha is None:
            raise ValueError(f"task {self.task.name} has no alpha; allowed: a number above 0, 1e6 at most")
        return self

    @model_validator(mode="after")
    def _windows_are_chosen_of_texts_and_where_some_are_left_out(self):
        if self.windows != "drawn" and (not self.task.by_roles or self.samples is None):
            raise ValueError(f"windows {self.windows} needs a task of texts and `samples`; allowed here: drawn")
        return self

    @model_validator(mode="after")
    def _models_are_of_the_tasks_kind(self):
        if other := [name for name in self.architectures if not name.startswith(self.task.models)]:
            raise ValueError(f"architecture {other[0]} is none for task {self.task.name}; "
                             f"allowed: such as {ZOOS[self.task.models][0]}")
        return self

    @property
    def mix(self) -> float | str:
        """Alpha, or `roles`: by what the private data are shared out, for tables of several runs."""
        return "roles" if self.alpha is None else self.alpha

    @property
    def title(self) -> str:
        """One line for a bar or a figure."""
        alpha = "" if self.alpha is None else f" alpha {self.alpha:g}"
        return f"{self.task.name} {self.strategy}{alpha} seed {self.seed}"

    @property
    def client_names(self) -> tuple[str, ...]:
        """client-0000, client-0001 ..., in the order that every sum over clients follows."""
        return tuple(f"client-{index:04}" for index in range(self.clients))

    @property
    def classes(self) -> int:
        """Size of the model's output: private classes, and public ones where the strategy learns them."""
        return self.task.outputs(self.labelled_public)

    @property
    def evaluated(self) -> tuple[str, ...]:
        """Whom a server's models are evaluated by: each architecture once, or each client on its own test items."""
        return self.client_names if self.task.by_roles else self.architectures

    def architecture_of(self, subject: str) -> str:
        """The architecture of a client (round-robin over the architectures), or the subject itself if it is one."""
        if subject in self.architectures:
            return subject
        return self.architectures[int(subject.removeprefix("client-")) % len(self.architectures)]

    def entropy(self, round_: int, subject: str, purpose: str) -> int:
        """63 bits that depend on (seed, round, subject, purpose) alone: never on the order, the worker or the key."""
        name = f"{self.seed}/{round_}/{subject}/{purpose}".encode()
        return int.from_bytes(hashlib.sha256(name).digest()[:8], "big") >> 1

    def rng(self, round_: int, subject: str, purpose: str) -> np.random.Generator:
        """NumPy's generator for one purpose; see `entropy`."""
        return np.random.default_rng(self.entropy(round_, subject, purpose))

    def key(self, data_hashes: Mapping[str, str]) -> str:
        """16 hexadecimal digits: the hash of all that decides the result, the data arrays' SHA-256 included.

        Settings at their defaults are left out, so that a setting added later keeps the keys of earlier runs; a
        default, once published, never changes.
        """
        settings = self.model_dump(mode="json", exclude={"task": {"about"}}, exclude_defaults=True)
        settings["strategy"] = self.strategy
        text = json.dumps([settings, dict(data_hashes)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class FedMD(Experiment):
    """FedMD (PAPER: FedMD, serverless).

    public_items: public training items at most; alignment_items: how many of them a round's sample has.
    pretrain_*: public transfer learning; transfer_*: private transfer learning. patience counts epochs without a gain
    of min_delta in validation loss. digest_*, revisit_epochs: a round's two fits.
    transfer, alignment: `lost` and `permuted` bring back the artefact's faults (PAPER: The artefact's faults).
    """

    strategy: Literal["fedmd"] = "fedmd"
    public_items: Annotated[int, Field(ge=10)] | None = None
    alignment_items: Batch = 5000
    pretrain_epochs: Count = 20
    pretrain_batch: Batch = 128
    pretrain_patience: Count = 8
    transfer_epochs: Count = 25
    transfer_patience: Count = 10
    min_delta: Annotated[float, Field(ge=0)] = 1e-3
    digest_epochs: Count = 1
    digest_batch: Batch = 256
    revisit_epochs: Count = 2
    transfer: Literal["used", "lost"] = "used"
    alignment: Literal["aligned", "permuted"] = "aligned"

    labelled_public: ClassVar[bool] = True


class Alone(Experiment):
    """Baseline: every client trains on its own data; nothing is exchanged."""

    strategy: Literal["alone"] = "alone"
    local_epochs: Count = 5


class FedAvg(Experiment):
    """Baseline: clients of one architecture share parameters, architectures share nothing (McMahan et al., 2017).

    clients_per_round: how many are called, every architecture among them. local_epochs: of each on its private data.
    selection: who is called, see kdlib.cohort.selection. durations: what `behaviour` goes by, each client's training
    time as its Records have it, or modelled (kdlib.cohort.durations), where `slow` clients take longer and calls to
    others `fail`.
    """

    strategy: Literal["fedavg"] = "fedavg"
    clients_per_round: Count = 20
    local_epochs: Count = 5
    selection: Literal["round-robin", "random", "behaviour"] = "round-robin"
    durations: Literal["modelled", "measured"] = "modelled"
    slow: Slow | None = None
    fail: Fail | None = None

    @model_validator(mode="after")
    def _every_architecture_is_served(self):
        least, most = len(self.architectures), self.clients
        if not least <= self.clients_per_round <= most:
            raise ValueError(f"clients_per_round is {self.clients_per_round}; allowed: {least} (one of each "
                             f"architecture) to {most} (all clients)")
        return self

    @model_validator(mode="after")
    def _what_is_measured_is_not_modelled(self):
        if self.durations == "measured" and (self.slow or self.fail):
            raise ValueError("durations are measured, so none can be modelled as slow or failing; "
                             "allowed: durations modelled, or neither slow nor fail")
        return self


class FedDF(FedAvg):
    """FedDF (PAPER: FedDF, serverless): FedAvg per architecture, then distillation from all clients' mean.

    public_items: public items at most, unlabelled; alignment_items: how many of them teach in a round.
    distil_batches: of distil_batch images at most; score_every batches the student is scored on the validation data,
    validation_items of them at most; patience counts scores without a gain.
    teachers: `shared`, the clients' logits are predicted once a round; `recomputed`, the original's way, every student
    predicts them anew for every batch (the same numbers within 1e-5).
    kl: `reverse` brings back the artefact's fault (PAPER: The artefact's faults).
    """

    strategy: Literal["feddf"] = "feddf"
    public_items: Annotated[int, Field(ge=10)] | None = None
    alignment_items: Batch = 5000
    validation_items: Cap = None
    distil_batch: Batch = 128
    distil_batches: Count = 1000
    score_every: Count = 50
    patience: Count = 5
    teachers: Literal["shared", "recomputed"] = "shared"
    kl: Literal["forward", "reverse"] = "forward"


MOST_ONE_SIDED = 0.1  # of the paper's four alphas

STRATEGIES: dict[str, type[Experiment]] = {"fedmd": FedMD, "feddf": FedDF, "alone": Alone, "fedavg": FedAvg}


def make_experiment(task: str | Task | TextTask, strategy: str, alpha: float | None = None, seed: int = 0,
                    profile: str = "laptop", **settings) -> Experiment:
    """An Experiment from a profile and the settings that differ from it.

    task: a built-in name or a path of a .toml file, as the strategy has it (see kdlib.settings.task), or a Task. What
    the task's file asks for holds where the profile says nothing. alpha: default 0.1, or none where clients are roles.
    Raises KdlibError, in one line that says what is allowed, for an unknown strategy, profile or setting, and for
    values that no run could have.
    """
    kind = _choose("strategy", strategy, STRATEGIES)
    defaults = dict(_choose("profile", profile, PROFILES))
    if isinstance(task, str):
        asked, task = load_settings(task), load_task(task, strategy)
        if unknown := sorted(set(asked) - {name for each in STRATEGIES.values() for name in each.model_fields}):
            raise KdlibError(f"task {task.name} asks for settings that no strategy has: {', '.join(unknown)}")
        defaults = asked | defaults
    if task.by_roles:
        defaults |= TEXT_PROFILES[profile]
    elif alpha is None:
        alpha = MOST_ONE_SIDED
    defaults = {name: value for name, value in defaults.items() if name in kind.model_fields}
    own = sorted(set(kind.model_fields) - {"strategy", "task", "alpha", "seed"})
    for name in settings:
        if name not in own:
            close = difflib.get_close_matches(name, own, 1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise KdlibError(f"unknown setting '{name}' for {strategy}{hint}; allowed: {', '.join(own)}")
    try:
        return kind(task=task, alpha=alpha, seed=seed, **{**defaults, **settings})
    except ValidationError as error:
        raise KdlibError(one_line(error)) from error


def from_json(text: str) -> Experiment:
    """The Experiment that `model_dump_json` wrote. Raises KdlibError where the text is none."""
    every = functools.reduce(operator.or_, STRATEGIES.values())
    kinds = TypeAdapter(Annotated[every, Field(discriminator="strategy")])
    try:
        return kinds.validate_json(text)
    except ValidationError as error:
        raise KdlibError(f"not an experiment: {one_line(error)}") from error


def _choose(what, name, allowed):
    if name not in allowed:
        close = difflib.get_close_matches(str(name), allowed, 1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise KdlibError(f"unknown {what} '{name}'{hint}; allowed: {', '.join(allowed)}")
    return allowed[name]
