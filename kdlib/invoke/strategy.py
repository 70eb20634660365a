"""What a strategy declares of itself, once, in its own file; the rest of the house asks here and knows no strategy.

    STRATEGY = Strategy(
        name="fedavg", title="FedAvg", settings=FedAvg, workflow=workflow,
        steps=(of_client(train, work=...), of_aggregator(average, work=...), of_aggregator(evaluate, work=...)),
        selects="train", model=server_model, ...)
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from kdlib.errors import KdlibError
from kdlib.invoke.steps import Handler, Stage, Step
from kdlib.registry import STRATEGIES
from kdlib.settings.experiment import Experiment
from kdlib.settings.shared import Selecting
from kdlib.store.names import named

Chosen = Callable[[int], tuple[str, ...]]
"""Round -> the clients that it calls, in client order."""

Carrier = Literal["client", "aggregator", "worker"]
"""Who carries a Step out: a client's function, an aggregator's, or a worker beside the functions (Ray's)."""

Line = Literal["-", "--", "-.", ":"]

LONGEST = 600.0  # seconds that a caller waits for a Step, its time in the function's line included; Knative's most
SHORT = 120.0  # of a Step that does not train

STEP = re.compile(r"[a-z][a-z0-9_]{0,39}")  # a step's name, or a metric's
RESERVED = ("step", "round", "subject", "seconds", "architecture")  # columns of a run's table of Steps


class Sizes(NamedTuple):
    """Items of a client, of the public training set, of a round's alignment sample, and of the validation set."""

    client: int
    public: int
    aligned: int
    validation: int


class Work(NamedTuple):
    """What the seconds of an invocation grow with: items trained on, items predicted, objects of clients gathered."""

    trained: float = 0.0
    predicted: float = 0.0
    gathered: float = 0.0


@dataclass(frozen=True)
class StepKind:
    """A step of a strategy.

    handler: its name is the step's; carrier: who carries it out, where its subject is no client; work: (experiment,
    sizes) -> what one invocation does, for estimates; needs: the client's step of the same round without which it is
    not called; seconds: that a caller waits; holds_all: whether it holds the models of all the round's clients at once;
    leaves: (round, subject) -> the object that it leaves as a part of the result, without which a run is not complete.
    """

    handler: Handler
    carrier: Carrier
    work: Callable[[Any, Sizes], Work]
    needs: str | None = None
    seconds: float = LONGEST
    holds_all: Callable[[Any], bool] = lambda experiment: False
    leaves: Callable[[int, str], str] | None = None

    @property
    def name(self) -> str:
        """What it is called in workflows and Records."""
        return self.handler.__name__


def of_client(handler: Handler, work: Callable[[Any, Sizes], Work], needs: str | None = None,
              seconds: float = LONGEST, leaves: Callable[[int, str], str] | None = None) -> StepKind:
    """A step that each client does, on its own data; see StepKind."""
    return StepKind(handler, "client", work, needs, seconds, leaves=leaves)


def of_aggregator(handler: Handler, work: Callable[[Any, Sizes], Work], seconds: float = LONGEST,
                  holds_all: Callable[[Any], bool] = lambda experiment: False,
                  leaves: Callable[[int, str], str] | None = None) -> StepKind:
    """A step of the server, or one per architecture; see StepKind."""
    return StepKind(handler, "aggregator", work, None, seconds, holds_all, leaves)


def of_worker(handler: Handler, work: Callable[[Any, Sizes], Work], seconds: float = LONGEST) -> StepKind:
    """A heavy step on public data that no function has to do; see StepKind."""
    return StepKind(handler, "worker", work, None, seconds)


@dataclass(frozen=True)
class Strategy:
    """What the house must know of a strategy.

    name: as `--strategy` takes it; title: as a figure says it; settings: its kind of Experiment.
    workflow: (experiment, chosen) -> the Stages of a run in order; who is called in a round may depend on those before.
    steps: all that stand in the workflow. fused: a workflow of the same Steps in fewer invocations, None if there is
    none; scratch: kinds of objects that then never reach the store.
    selects: the client's step whose subjects are chosen each round; None: all clients take part in every round.
    personal: whether clients go on from models of their own, which then are the result, or from the server's.
    model: (round, subject) -> object of the weights after that round; the subject is a client where models are
    personal, else an architecture.
    metrics: names of what its steps measure, besides those of kdlib.invoke.metrics.
    keeps: kinds of objects that outlive their round; passing: those that are no result, so not in the final bytes.
    profiles, text_profiles: profile -> its own settings there, and what else with texts.
    probe: experiment -> settings that cut it down to a probe of one round, where it has more than `..._epochs`.
    baseline: whether it is one, drawn after the others; colour, line: in figures, matplotlib's.
    """

    name: str
    title: str
    settings: type[Experiment]
    workflow: Callable[[Any, Chosen], Iterator[Stage]]
    steps: tuple[StepKind, ...]
    model: Callable[[int, str], str]
    personal: bool = False
    fused: Callable[[Any, Chosen], Iterator[Stage]] | None = None
    selects: str | None = None
    metrics: tuple[str, ...] = ()
    keeps: tuple[str, ...] = ()
    passing: tuple[str, ...] = ()
    scratch: tuple[str, ...] = ()
    profiles: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    text_profiles: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    probe: Callable[[Any], Mapping[str, Any]] = lambda experiment: {}
    baseline: bool = False
    colour: str | None = None
    line: Line = "-"

    def __post_init__(self) -> None:
        names = [step.name for step in self.steps]
        wrong = [f"{name} is no name for a step" for name in names if not STEP.fullmatch(name)]
        wrong += [f"two steps are called {name}" for name in names if names.count(name) > 1]
        wrong += [f"{step.name} needs {step.needs}, which is no step" for step in self.steps
                  if step.needs not in (None, *names)]
        wrong += [f"it selects for {self.selects}, which is no step"] * (self.selects not in (None, *names))
        wrong += ["it selects, and its settings are no Selecting"] * bool(
            self.selects and not issubclass(self.settings, Selecting))
        wrong += [f"{setting} of its profile {profile} is no setting"
                  for profiles in (self.profiles, self.text_profiles) for profile, its in profiles.items()
                  for setting in its if setting not in self.settings.model_fields]
        wrong += [f"{name} is no name for a metric" for name in self.metrics
                  if not STEP.fullmatch(name) or name in RESERVED]
        wrong += [f"scratch {kind} is not passing" for kind in self.scratch if kind not in self.passing]
        if wrong:
            raise KdlibError(f"strategy {self.name}: {wrong[0]}; allowed steps: {', '.join(names)}")

    @property
    def code(self) -> list[object]:
        """The functions and classes that it is made of."""
        return [self.settings, self.workflow, *([self.fused] if self.fused else []),
                *(step.handler for step in self.steps)]

    def step(self, name: str) -> StepKind:
        """The step of that name. Raises KdlibError where it has none such."""
        for step in self.steps:
            if step.name == name:
                return step
        raise KdlibError(f"{self.name} has no step {name[:40]}; allowed: "
                         f"{', '.join(step.name for step in self.steps)}")

    def left_by(self, step: Step) -> str | None:
        """The object of the result that the Step leaves, None where it leaves none; see StepKind.leaves."""
        leaves = self.step(step.name).leaves
        return leaves(step.round, step.subject) if leaves else None

    def carrier(self, step: str, subject: str) -> Carrier:
        """Who carries out that Step, fused or not, by or for that subject."""
        if subject.startswith("client-"):
            return "client"
        declared = self.step(Step(step, 0, subject).parts[0].name).carrier
        return "worker" if declared == "worker" else "aggregator"

    def stages(self, experiment: Experiment, chosen: Chosen, fused: bool = False) -> Iterator[Stage]:
        """The run's Stages. Raises KdlibError where Steps are to be fused that cannot be."""
        if fused and self.fused is None:
            able = [each for each in STRATEGIES.names() if STRATEGIES.find(each).value.fused]
            raise KdlibError(f"{self.name} has no fused round; allowed: {', '.join(able)}")
        return (self.fused if fused and self.fused else self.workflow)(experiment, chosen)


def strategy_of(experiment: Experiment) -> Strategy:
    """The declaration of the experiment's strategy. Raises KdlibError where there is none here."""
    return STRATEGIES.find(experiment.strategy).value


def find_strategy(name: str) -> Strategy:
    """The declaration of the strategy called `name`. Raises KdlibError where there is none here."""
    return STRATEGIES.find(name).value


def register_strategy(strategy: Strategy) -> Strategy:
    """From now on `strategy` can be run by its name in this process; the same name again replaces it.

    Raises KdlibError for a name of kdlib's own, and for what is no Strategy. Processes beside this one know it only
    from a file or a package, see kdlib.registry.
    """
    if not isinstance(strategy, Strategy):
        raise KdlibError(f"{repr(strategy)[:80]} is no strategy; allowed: a kdlib.Strategy")
    return STRATEGIES.register(strategy.name, strategy)


def everybody(experiment: Experiment) -> Chosen:
    """Every client in every round."""
    return lambda round_: experiment.client_names


def personal_model(round_: int, client: str) -> str:
    """Where a strategy's clients keep models of their own."""
    return named(client, round_, "weights")


def server_model(round_: int, architecture: str) -> str:
    """Where a strategy's server keeps a model for each architecture."""
    return named("public", round_, architecture)


def expect_sources(experiment: Experiment, sources: Mapping[str, str]) -> None:
    """Raises KdlibError unless the code that is not kdlib's own is here just as `sources` says of the driver's."""
    here = experiment.sources
    for name in sorted({*here, *sources}):
        if here.get(name) != sources.get(name):
            raise KdlibError(f"{name} is another version here than where the run was begun; allowed: the same source, "
                             "in a process started with it")
