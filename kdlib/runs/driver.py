"""Drives a strategy's workflow: stage by stage, with resume, progress, and patience for late clients."""

import logging
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

from kdlib.cohort import attendance
from kdlib.errors import KdlibError
from kdlib.settings.experiment import Experiment, FedAvg
from kdlib.cohort.history import Forecast, History
from kdlib.invoke.steps import Invoker, Record, Stage, Step
from kdlib.strategies.perform import STRATEGIES
from kdlib.runs.progress import Progress
from kdlib.runs.run import Run, whole_lines
from kdlib.store.store import Store

Watch = Callable[[Run], object]

KEPT = ("consensus", "teacher")  # of every round; of the rest only what the last round left

log = logging.getLogger("kdlib")


class Patience(NamedTuple):
    """How a round deals with clients that are late or fail.

    deadline: seconds that a stage waits for its clients; least_share: of them, 0-1, below which the round fails.
    """

    deadline: float
    least_share: float


def drive(the_run: Run, store: Store, invoker: Invoker, repetition: int, progress: bool, fused: bool = False,
          patience: Patience | None = None, watch: Watch | None = None) -> None:
    """Carry out every Step that has no Record yet, stage by stage, and append the Records as they come.

    watch: called with the run after every round.
    Without `patience` the first Step that fails ends it. With it, clients that miss the deadline or fail are left out
    of what follows in the round, which is written down first (kdlib.cohort.attendance); raises KdlibError where too few are left.
    """
    experiment = the_run.experiment
    clients = set(experiment.client_names)
    go_on = not isinstance(experiment, FedAvg)  # from their own weights, not from their architecture's
    file = the_run.folder / "records" / f"{invoker.name}-{repetition}.jsonl"
    file.parent.mkdir(exist_ok=True)
    whole_lines(file, mend=True)
    records = the_run.records(repetition)
    done = {step for record in records for step in record.done}
    items = the_run.partition.groupby("client")["items"].sum().to_dict()
    history = History(experiment, store, items, records)
    planned = list(_stages(experiment, fused, Forecast(history)))
    with file.open("a") as lines, Progress(experiment.title, sum(len(stage.subjects) for stage in planned),
                                           [step for stage in planned for step in _left(stage, done)], progress) as bar:
        earlier = None
        for stage in _stages(experiment, fused, history):  # each when the last is over: who is called depends on it
            if earlier and earlier.round < stage.round:
                sweep(store, stage.round - 1, go_on)
                if watch:
                    watch(the_run)
            earlier = stage
            steps = [step for step in _left(stage, done) if _counts(experiment, store, step)]
            waits = patience and stage.round and set(stage.subjects) <= clients
            for record in (_patiently(the_run.key, experiment, store, invoker, stage, steps, patience) if waits else
                           invoker.run(the_run.key, experiment, store, steps)):
                lines.write(record.model_dump_json() + "\n")
                lines.flush()
                history.add(record)
                bar.tick(record)
    sweep(store, experiment.rounds, go_on)
    if watch:
        watch(the_run)


def _counts(experiment: Experiment, store: Store, step: Step) -> bool:
    """False where it is written down that the Step's client missed it, or what it rests on in the same round."""
    first = step.parts[0]
    rests_on = STRATEGIES[experiment.strategy].NEEDS.get(first.name, first.name)
    return step.subject not in experiment.client_names or all(
        attendance.in_time(store, step.round, name, [step.subject]) for name in (first.name, rests_on))


def _patiently(key: str, experiment: Experiment, store: Store, invoker: Invoker, stage: Stage, steps: list[Step],
               patience: Patience) -> Iterator[Record]:
    """The Records of those that answer before the deadline; then it is written down who that was."""
    if not hasattr(invoker, "attempt"):
        raise KdlibError(f"a deadline is for functions, which may be late; allowed: --invoker http, not {invoker.name}")
    missed: dict[Step, KdlibError] = {}
    timer = threading.Timer(patience.deadline, invoker.cancel)
    timer.start()
    try:
        for step, outcome in invoker.attempt(key, experiment, store, steps):
            if isinstance(outcome, Record):
                yield outcome
            else:
                missed[step] = outcome
    finally:
        timer.cancel()
    there = [step.subject for step in stage.steps if step not in missed and _counts(experiment, store, step)]
    if len(there) < patience.least_share * len(stage.subjects):
        reasons = "; ".join(map(str, missed.values()))
        share = f"{len(there)} of {len(stage.subjects)} clients did {stage.name}"
        raise KdlibError(f"round {stage.round}: {share}, allowed: a share of {patience.least_share:g} or more; "
                         f"{reasons}; the same command tries again")
    for why in missed.values():
        log.warning("kdlib: left out of round %d: %s", stage.round, why)
    if len(there) < len(stage.subjects):
        for part in stage.steps[0].parts:
            attendance.write(store, part.round, part.name, there)


def sweep(store: Store, before: int, go_on: bool) -> None:
    """Delete what rounds earlier than `before` left: nobody reads it.

    Every round's consensus or teacher stays, and where clients `go_on` from their own weights, those of the ones that
    missed round `before`.
    """
    counted = attendance.read(store, before).values() if go_on else ()
    for name in store.names():
        owner, *_, round_, kind = f"{name.split('/')[0]}//{name}".split("/")
        behind = kind == "weights" and any(owner not in clients for clients in counted)
        if round_.isdigit() and int(round_) < before and kind not in KEPT and not behind:
            store.delete(name)


def _left(stage: Stage, done: set[Step]) -> list[Step]:
    """The stage's Steps that have no Record; of a fused one begun in single ones only the rest.

    What the first parts of that one read may be swept away already.
    """
    return [Step.fused(rest) for step in stage.steps if (rest := [part for part in step.parts if part not in done])]


def _stages(experiment: Experiment, fused: bool, history: History | Forecast) -> Iterator[Stage]:
    strategy = STRATEGIES[experiment.strategy]
    if fused and not hasattr(strategy, "fused_workflow"):
        able = ", ".join(name for name, module in STRATEGIES.items() if hasattr(module, "fused_workflow"))
        raise KdlibError(f"{experiment.strategy} has no fused round; allowed: {able}")
    return strategy.fused_workflow(experiment, history) if fused else strategy.workflow(experiment, history)
