"""A task is data, not code: which classes of which data set are private, and which are public."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from kdlib import toml
from kdlib.errors import KdlibError, meant
from kdlib.registry import STRATEGIES
from kdlib.settings.vocabulary import CHARACTERS, FIRST

BUILT_IN = Path(__file__).parent / "tasks"

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,40}$")]
Size = Annotated[int, Field(ge=1, le=100_000)]


class Source(BaseModel):
    """Some classes of one data set, or all items of one without labels.

    name: the data set, see kdlib.data.sets.
    classes: labels to keep, in the order in which the model numbers them; none: the items have no labels, or none that
    count, which public data may do.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    classes: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(max_length=1000)] = ()

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"a class is named twice in {self.name}: {list(self.classes)}")
        return self


class Task(BaseModel):
    """What is learnt, and what is shared (PAPER: Tasks).

    items: `image`, `text` (numbers of tokens), or `other` (any numbers, for networks of one's own). uint8 items are
    divided by `pixels`, float ones taken as they are, other integers are tokens.
    pixels: of uint8 items, the number that is white: 255, or 1 where 0 is black and 1 is white.
    shape: of an item: (height, width) or (height, width, channels) in pixels, (tokens,), or any.
    vocabulary: of texts: how many tokens there are, 0 .. vocabulary - 1.
    shared: how the private data come to the clients: `dirichlet` draws (PAPER: Non-IID partitions), or `owners` that
    the data name, a client each, with test items of its own; least_train, least_test: items that an owner needs.
    private: the clients' data; its classes become labels 0 .. P-1.
    public: the data that everybody has; where a strategy uses its labels they become P .. P+Q-1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    about: str = ""
    items: Literal["image", "text", "other"] = "image"
    shape: Annotated[tuple[Size, ...], Field(min_length=1, max_length=4)]
    vocabulary: Annotated[int, Field(ge=2, le=2**20)] | None = None
    pixels: Annotated[int, Field(ge=1, le=255)] = 255
    shared: Literal["dirichlet", "owners"] = "dirichlet"
    least_train: Annotated[int, Field(ge=2)] = 2
    least_test: Annotated[int, Field(ge=1)] = 1
    private: Source
    public: Source

    @model_validator(mode="after")
    def _shaped(self) -> Self:
        dimensions = {"image": (2, 3), "text": (1,)}.get(self.items, range(1, 5))
        if len(self.shape) not in dimensions or (self.items == "image" and max(self.shape) > 512):
            raise ValueError(f"shape {list(self.shape)} is none of items {self.items}; allowed: [height, width] or "
                             "[height, width, channels] of an image, each up to 512; [tokens] of a text; else one to "
                             "four numbers")
        if self.items == "image" and _channels_first(self.shape):
            raise ValueError(f"shape {list(self.shape)} would be {self.shape[2]} channels of {self.shape[0]} x "
                             f"{self.shape[1]} pixels, and seems to have the channels first; allowed: [height, width, "
                             f"channels], here {[*self.shape[1:], self.shape[0]]}, and the arrays likewise, as "
                             "x.transpose(0, 2, 3, 1) makes them")
        if self.items == "text" and self.pixels != 255:
            raise ValueError("pixels are of images and other numbers; allowed: none with items = \"text\"")
        if (self.vocabulary is None) == (self.items == "text"):
            raise ValueError("a text has a vocabulary, anything else has none; allowed: vocabulary = 100 with items = "
                             "\"text\"")
        return self

    @model_validator(mode="after")
    def _classes(self) -> Self:
        if not self.private.classes:
            raise ValueError(f"private {self.private.name} has no classes; allowed: at least one")
        shared = set(self.private.classes) & set(self.public.classes)
        if self.private.name == self.public.name and (shared or not self.public.classes):
            raise ValueError(f"classes {sorted(shared) or 'all'} of {self.private.name} are both private and public")
        return self

    @property
    def by_owners(self) -> bool:
        """Whether a client is an owner that the data name, with its own test items, not a drawn part."""
        return self.shared == "owners"

    @property
    def labelled_public(self) -> bool:
        """Whether the public data have labels."""
        return bool(self.public.classes)

    @property
    def image(self) -> tuple[int, int, int]:
        """(channels, height, width), the order of the models."""
        height, width, *channels = self.shape
        return (channels[0] if channels else 1), height, width

    @property
    def summary(self) -> str:
        """Its data in one line."""
        public = f"{len(self.public.classes)} classes" if self.public.classes else "unlabelled"
        kind = {"image": "images", "text": "texts"}.get(self.items, "items")
        return (f"private {self.private.name}, {len(self.private.classes)} classes{', by owners' * self.by_owners}; "
                f"public {self.public.name}, {public}; {kind} {list(self.shape)}")

    def outputs(self, labelled_public: bool) -> int:
        """Size of a model's output: the private classes, and where their labels are used the public ones."""
        return len(self.private.classes) + labelled_public * len(self.public.classes)


def _channels_first(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 and shape[2] > 4 and (shape[0] <= 4 or shape[0] != shape[1] == shape[2])


class Roles(BaseModel):
    """Texts of several writers or speakers, each of which may be a client.

    name: the data set, NAME.json.gz, an object {role: its lines}; least_test: test windows that a role needs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    least_test: Annotated[int, Field(ge=1)] = 32


class Text(BaseModel):
    """One text. name: NAME.txt; step: characters from window to window; items: windows at most, the first ones."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    step: Annotated[int, Field(ge=1)] = 3
    items: Annotated[int, Field(ge=10)] = 10_000


class TextTask(BaseModel):
    """The next character after `window` others (PAPER: Tasks).

    private: the clients' data, a role a client; public: the text that everybody has.
    characters: the vocabulary of both, each once; unknown: the share, 0-1, of other characters in either that is borne:
    in the private data they are all one, UNKNOWN, which is never a right answer; from the public data they are dropped.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    items: ClassVar[str] = "text"
    by_owners: ClassVar[bool] = True
    labelled_public: ClassVar[bool] = True
    pixels: ClassVar[int] = 255

    name: Name
    about: str = ""
    window: Annotated[int, Field(ge=2, le=1000)]
    characters: Annotated[str, Field(min_length=2, max_length=20_000)] = CHARACTERS
    unknown: Annotated[float, Field(ge=0, le=1)] = 0.1
    private: Roles
    public: Text

    @field_validator("characters")
    @classmethod
    def _each_once(cls, characters: str) -> str:
        if twice := [one for one in dict.fromkeys(characters) if characters.count(one) > 1][:5]:
            raise ValueError(f"{', '.join(map(repr, twice))} stand there twice; allowed: each character once")
        return characters

    @property
    def vocabulary(self) -> int:
        """How many numbers there are: the characters', 0 that pads, and UNKNOWN's."""
        return FIRST + len(self.characters)

    @property
    def shape(self) -> tuple[int]:
        """Of one stored item."""
        return (self.window,)

    @property
    def summary(self) -> str:
        """Its data in one line."""
        return (f"private {self.private.name}, a role a client; public {self.public.name}; windows of {self.window} "
                "characters")

    def outputs(self, labelled_public: bool) -> int:
        """Size of a model's output: the vocabulary, whoever's text it is."""
        return self.vocabulary


class Sources(BaseModel):
    """What one strategy takes instead of a task's private and public data."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    private: Source
    public: Source


OF_A_RUN = ("strategy", "task", "alpha", "seed")  # settings that no task's file has a say in


class TaskFile(BaseModel):
    """A task's TOML file: the fields of a Task, and what is no part of it.

    task: for every strategy that `instead` does not name; instead: strategy -> its own private and public images;
    settings: of the Experiment, where neither its profile nor its user says otherwise (architectures, for example).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: Task | TextTask
    instead: dict[str, Sources] = {}
    settings: dict[str, Any] = {}

    @model_validator(mode="after")
    def _of_one_kind(self) -> Self:
        if self.instead and isinstance(self.task, TextTask):
            raise ValueError("instead: a task of texts has the same data for every strategy")
        return self

    @model_validator(mode="after")
    def _of_strategies(self) -> Self:
        for name in self.instead:
            if name not in (known := STRATEGIES.names()):
                raise ValueError(f"instead.{name}: no such strategy{meant(name, known)}; allowed: {', '.join(known)}")
        return self

    @model_validator(mode="after")
    def _of_tasks(self) -> Self:
        if given := [name for name in OF_A_RUN if name in self.settings]:
            raise ValueError(f"settings.{given[0]} is none of a task's, each run is given its own; allowed: to leave "
                             f"it out, and `--{given[0]} {self.settings[given[0]]!s:.20}` for a run")
        return self

    def of(self, strategy: str | None) -> Task | TextTask:
        """The Task as that strategy has it."""
        instead = self.instead.get(strategy or "")
        return self.task.model_copy(update=dict(instead)) if instead else self.task


def built_in() -> list[str]:
    """Names of the tasks that come with kdlib."""
    return toml.built_in(BUILT_IN)


def load_task(name: str, strategy: str | None = None) -> Task | TextTask:
    """The task `name`, a built-in one or the path of a TOML file, as `strategy` has it.

    `NAME:STRATEGY` is the task as that other strategy has it: beside FedMD a baseline runs on `cifar:fedmd`.
    Raises KdlibError where there is no such task, or where its file says something that a task cannot be.
    """
    base, other = _named(name)
    found = task_file(base)
    if other and other not in found.instead and other not in STRATEGIES.names():
        raise KdlibError(f"task '{name}' names no strategy after its colon; allowed: {', '.join(STRATEGIES.names())}")
    return found.of(other or strategy)


def load_settings(name: str) -> dict[str, Any]:
    """What the task's file asks of every Experiment: setting -> value. Raises KdlibError, see load_task."""
    return task_file(_named(name)[0]).settings


def task_file(name: str) -> TaskFile:
    """The whole file of a built-in task, or the one at that path. Raises KdlibError, see load_task."""
    return toml.read(toml.find(name, BUILT_IN, "task"), "task file", _from_fields)


def _from_fields(fields: dict[str, Any]) -> TaskFile:
    more = {key: fields.pop(key) for key in ("instead", "settings") if key in fields}
    return TaskFile(task=(TextTask if "window" in fields else Task)(**fields), **more)


def _named(name: str) -> tuple[str, str | None]:
    base, colon, strategy = name.rpartition(":")
    return (base, strategy) if colon else (name, None)
