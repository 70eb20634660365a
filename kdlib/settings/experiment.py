"""Everything that decides a run's result, in one frozen, validated value."""

import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from kdlib import registry
from kdlib.errors import KdlibError, meant
from kdlib.machine import bf16_pays
from kdlib.registry import NETWORKS, STRATEGIES
from kdlib.settings.architectures import LONGEST, ZOO, ZOOS, expect_architecture, network, sized, word
from kdlib.settings.profiles import OF_ITEMS, PROFILES
from kdlib.settings.task import Task, TextTask, load_settings, load_task
from kdlib.toml import one_line

Count = Annotated[int, Field(ge=1)]
Batch = Annotated[int, Field(ge=2)]  # batch norm can make nothing of one item
Cap = Annotated[int, Field(ge=2)] | None
Rate = Annotated[float, Field(gt=0, le=1)]
NO_DATA: Mapping[str, str] = {}
Architecture = Annotated[str, Field(max_length=LONGEST), AfterValidator(expect_architecture)]


class Experiment(BaseModel):
    """What every strategy needs; each adds its own. The defaults are the paper's numbers (PAPER: Tasks, Models).

    strategy: its name, see kdlib.registry.
    alpha: concentration of the Dirichlet law; small is far from IID. None where the data name their owners.
    seed: the one source of every random number of the run.
    architectures: names such as `cnn2-128-256`, see kdlib.settings.architectures; client i has architecture i mod
    their number.
    width: factor on every number of filters or units.
    samples: private training items of a client at most; None takes all there are.
    windows: of texts by roles, which those are: drawn at random, the most recent, or spread evenly over the lines.
    test_items: private test items that an evaluation uses at most; None takes all.
    evaluate_every: rounds from one evaluation to the next; the last round always has one.
    batch, learning_rate, optimizer: of training; the rate is every optimizer's, the batch that of private data.
    batch_norm_momentum: in PyTorch's sense; Keras's 0.99 is 0.01 here.
    threads: torch threads of one Step. They decide the last bits, so they belong here; so do device and precision.
    device: what models train and predict on; a run's last bits are those of one kind of device.
    precision: of convolutions and products in training and prediction; weights, losses and sums stay float32. `auto`
    becomes bf16 where that is the faster one on this CPU, else fp32, before anything else sees it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    strategy: Annotated[str, Field(min_length=1, max_length=LONGEST)]
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
    evaluate_every: Count = 1
    batch: Batch = 32
    learning_rate: Rate = 1e-3
    optimizer: Literal["adam", "rmsprop", "sgd"] = "adam"
    batch_norm_momentum: Rate = 0.01
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    device: Literal["cpu", "cuda", "mps"] = "cpu"
    precision: Literal["fp32", "bf16"] = "fp32"

    labelled_public: ClassVar[bool] = False  # whether models learn the public data's classes, too
    uses_public: ClassVar[bool] = False

    @field_validator("precision", mode="before")
    @classmethod
    def _resolved(cls, precision: object) -> object:
        return ("bf16" if bf16_pays() else "fp32") if precision == "auto" else precision

    @field_validator("architectures")
    @classmethod
    def _distinct(cls, architectures: tuple[str, ...]) -> tuple[str, ...]:
        words = [word(name) for name in architectures]
        if len(set(words)) != len(words):
            raise ValueError(f"an architecture is named twice, or two would share their objects' names: "
                             f"{', '.join(architectures)}")
        return architectures

    @model_validator(mode="after")
    def _every_architecture_has_a_client(self) -> Self:
        if self.clients < len(self.architectures):
            raise ValueError(f"{self.clients} clients cannot have {len(self.architectures)} architectures; "
                             f"allowed: clients of at least {len(self.architectures)}, or fewer architectures")
        return self

    @model_validator(mode="after")
    def _alpha_shares_out_what_nobody_owns(self) -> Self:
        if self.task.by_owners and self.alpha is not None:
            raise ValueError(f"task {self.task.name} has no alpha, its owners are the clients; allowed: none")
        if not self.task.by_owners and self.alpha is None:
            raise ValueError(f"task {self.task.name} has no alpha; allowed: a number above 0, 1e6 at most")
        return self

    @model_validator(mode="after")
    def _windows_are_chosen_of_texts_and_where_some_are_left_out(self) -> Self:
        if self.windows != "drawn" and (not isinstance(self.task, TextTask) or self.samples is None):
            raise ValueError(f"windows {self.windows} needs a task of texts and `samples`; allowed here: drawn")
        return self

    @model_validator(mode="after")
    def _networks_take_the_tasks_items(self) -> Self:
        for name in self.architectures:
            takes = network(name)[0].items
            if takes not in (None, self.task.items):
                such = f"such as {ZOOS[self.task.items][0]}" if self.task.items in ZOOS else "a network of your own"
                raise ValueError(f"architecture {name} takes {takes}s, task {self.task.name} has items of kind "
                                 f"{self.task.items}; allowed: {such}")
        return self

    @model_validator(mode="after")
    def _no_architecture_has_the_name_of_what_a_round_leaves(self) -> Self:
        declared = STRATEGIES.find(self.strategy).value
        if taken := [name for name in self.architectures if word(name) in (*declared.keeps, *declared.passing)]:
            raise ValueError(f"architecture {taken[0]} has the name of something else; allowed: another name")
        return self

    @model_validator(mode="after")
    def _labels_are_there_where_they_are_learnt(self) -> Self:
        if self.labelled_public and not self.task.labelled_public:
            raise ValueError(f"{self.strategy} learns from labelled public data, which task {self.task.name} has not; "
                             "allowed: a public source with classes, or another strategy")
        return self

    @property
    def mix(self) -> float | str:
        """Alpha, or `roles`, the data's own owners: how the private data are shared out, for tables of several runs."""
        return "roles" if self.alpha is None else self.alpha

    @property
    def title(self) -> str:
        """One line for a bar or a figure."""
        alpha = "" if self.alpha is None else f" alpha {self.alpha:g}"
        return f"{self.task.name} {self.strategy}{alpha} seed {self.seed}"

    @property
    def client_names(self) -> tuple[str, ...]:
        """client-0000, client-0001 ..., in the order that every sum over clients follows."""
        return tuple(_clients(self.clients))

    def has_client(self, subject: str) -> bool:
        """Whether the run has a client of that name."""
        return subject in _clients(self.clients)

    @property
    def classes(self) -> int:
        """Size of the model's output: private classes, and public ones where the strategy learns them."""
        return self.task.outputs(self.labelled_public)

    @property
    def evaluated(self) -> tuple[str, ...]:
        """Whom a server's models are evaluated by: each architecture once, or each client on its own test items."""
        return self.client_names if self.task.by_owners else self.architectures

    def evaluates(self, round_: int) -> bool:
        """Whether the round's models are evaluated; round 0 is before the first, where a strategy has models then."""
        return round_ % self.evaluate_every == 0 or round_ == self.rounds

    def architecture_of(self, subject: str) -> str:
        """The architecture of a client (round-robin over the architectures), or the subject itself if it is one."""
        if subject in self.architectures:
            return subject
        return self.architectures[int(subject.removeprefix("client-")) % len(self.architectures)]

    def setting(self, name: str) -> Any:
        """The setting of that name, None where this strategy has none such."""
        return getattr(self, name) if name in type(self).model_fields else None

    @property
    def sources(self) -> dict[str, str]:
        """`strategy NAME`, `network NAME` -> SHA-256 of the code, of those that are not kdlib's own."""
        found = {f"strategy {self.strategy}": STRATEGIES.find(self.strategy).source}
        for name, _ in map(sized, self.architectures):
            found[f"network {name}"] = NETWORKS.find(name).source
        return {name: source for name, source in found.items() if source}

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
        default, once published, never changes. The code of strategies and networks that are not kdlib's own counts too.
        """
        return self.fingerprint(data_hashes)[:16]

    def fingerprint(self, data_hashes: Mapping[str, str] = NO_DATA) -> str:
        """All 64 digits of `key`, by default of the settings and the code alone, whatever the data."""
        settings = self.model_dump(mode="json", exclude={"task": {"about"}}, exclude_defaults=True)
        sources = self.sources
        text = json.dumps([settings, dict(data_hashes), *([sources] if sources else [])], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@functools.lru_cache(maxsize=8)
def _clients(count: int) -> dict[str, int]:
    """name -> number. Every Record of ten thousand clients asks for it."""
    return {f"client-{index:04}": index for index in range(count)}


MOST_ONE_SIDED = 0.1  # of the paper's four alphas


def make_experiment(task: str | Task | TextTask, strategy: str, alpha: float | None = None, seed: int = 0,
                    profile: str = "laptop", **settings: Any) -> Experiment:
    """An Experiment from a profile and the settings that differ from it.

    task: a built-in name or a path of a .toml file, as the strategy has it (see kdlib.settings.task), or a Task. What
    the task's file asks for holds where the profile says nothing. strategy, and each of the setting `architectures`: a
    name, or `package.module:NAME`, whose module is then imported (see kdlib.registry). alpha: default 0.1, or none
    where the data name their owners.
    Raises KdlibError, in one line that says what is allowed, for an unknown strategy, profile or setting, and for
    values that no run could have.
    """
    named = settings.get("architectures", ())
    for name in (strategy, *(named if isinstance(named, list | tuple) else ())):
        if isinstance(name, str):
            registry.allow(name)
    declared = STRATEGIES.find(strategy).value
    kind = declared.settings
    defaults = dict(_choose("profile", profile, PROFILES))
    asked: dict[str, Any] = {}
    if isinstance(task, str):
        asked, task = load_settings(task), load_task(task, strategy)
        others = set(asked) - set(kind.model_fields)
        if others and (unknown := sorted(others - _every_setting())):
            raise KdlibError(f"task {task.name} asks for settings that no strategy has: {', '.join(unknown)}")
    text = task.items == "text"
    defaults = {**asked, **defaults, **declared.profiles.get(profile, {}), **OF_ITEMS[task.items].get(profile, {}),
                **(declared.text_profiles.get(profile, {}) if text else {})}
    if alpha is None and not task.by_owners:
        alpha = MOST_ONE_SIDED
    own = sorted(set(kind.model_fields) - {"strategy", "task", "alpha", "seed"})
    defaults = {name: value for name, value in defaults.items() if name in own}
    for name in settings:
        if name not in own:
            raise KdlibError(f"unknown setting '{name}' for {strategy}{meant(name, own)}; allowed: {', '.join(own)}")
    if task.items not in ZOOS and "architectures" not in defaults | settings:
        raise KdlibError(f"task {task.name} has items of its own kind, for which kdlib has no networks; allowed: "
                         "architectures=[...] with networks of your own, by name or as package.module:NAME")
    try:
        return kind(strategy=strategy, task=task, alpha=alpha, seed=seed, **{**defaults, **settings})
    except ValidationError as error:
        raise KdlibError(one_line(error)) from error


class _Named(BaseModel):
    """What says of which strategy an Experiment is."""

    strategy: Annotated[str, Field(min_length=1, max_length=LONGEST)]


def from_json(text: str | bytes) -> Experiment:
    """The Experiment that `model_dump_json` wrote. Raises KdlibError where the text is none.

    It is outside data: of strategies and networks only those are taken that are here already, see kdlib.registry.
    """
    try:
        return STRATEGIES.find(_Named.model_validate_json(text).strategy).value.settings.model_validate_json(text)
    except ValidationError as error:
        raise KdlibError(f"not an experiment: {one_line(error)}") from error


def _every_setting() -> set[str]:
    return {name for each in STRATEGIES.names() for name in STRATEGIES.find(each).value.settings.model_fields}


def _choose(what: str, name: str, allowed: Mapping[str, Any]) -> Any:
    if name not in allowed:
        raise KdlibError(f"unknown {what} '{name}'{meant(str(name), allowed)}; allowed: {', '.join(allowed)}")
    return allowed[name]
