"""Drives a strategy's workflow: stage by stage, with resume, progress, and patience for late clients."""

import logging
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

from kdlib.cohort import attendance
from kdlib.cohort.history import History
from kdlib.errors import KdlibError
from kdlib.invoke.invokers import Invoker
from kdlib.invoke.metrics import diverged, expect_record
from kdlib.invoke.steps import Record, Stage, Step
from kdlib.invoke.strategy import Strategy, everybody, strategy_of
from kdlib.runs.journal import Journal
from kdlib.runs.progress import Progress
from kdlib.runs.run import Run
from kdlib.settings.experiment import Experiment
from kdlib.settings.shared import Selecting
from kdlib.store import names
from kdlib.store.store import Store

Watch = Callable[[Run], object]

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
    of what follows in the round, which is written down first (kdlib.cohort.attendance); raises KdlibError where too
    few are left.
    """
    experiment, strategy = the_run.experiment, strategy_of(the_run.experiment)
    clients = set(experiment.client_names)
    file = the_run.folder / "records" / f"{invoker.name}-{repetition}.jsonl"
    records = the_run.records(repetition)
    done = {step for record in records for step in record.done}
    history = _history(the_run, store, records) if strategy.selects else None
    chosen, forecast = (history.chosen, history.forecast) if history else 2 * (everybody(experiment),)
    planned = list(strategy.stages(experiment, forecast, fused))
    with Journal(file) as lines, Progress(experiment.title, sum(len(stage.subjects) for stage in planned),
                                         [step for stage in planned for step in _left(stage, done)], progress) as bar:
        earlier = None
        for stage in strategy.stages(experiment, chosen, fused):  # each when the last is over: it may depend on it
            if earlier and earlier.round < stage.round:
                lines.sync()  # first: what a lost Record's Step would read again must still be there
                sweep(store, strategy, stage.round - 1)
                if watch:
                    watch(the_run)
            earlier = stage
            steps = [step for step in _left(stage, done) if _counts(experiment, store, step)]
            if patience and stage.round and set(stage.subjects) <= clients:
                came = _patiently(the_run.key, experiment, store, invoker, stage, steps, patience)
            else:
                came = invoker.run(the_run.key, experiment, store, steps)
            for record in came:
                expect_record(record, the_run.key, experiment, steps)
                for line in diverged(record):
                    log.warning("kdlib: %s", line)
                lines.add(record.model_dump_json())
                if history:
                    history.add(record)
                bar.tick(record)
    sweep(store, strategy, experiment.rounds)
    if watch:
        watch(the_run)


def _history(the_run: Run, store: Store, records: list[Record]) -> History:
    assert isinstance(the_run.experiment, Selecting)  # what a strategy that selects has for settings
    items = the_run.partition.groupby("client")["items"].sum()
    return History(the_run.experiment, store, {str(client): int(count) for client, count in items.items()}, records)


def _counts(experiment: Experiment, store: Store, step: Step) -> bool:
    """False where it is written down that the Step's client missed it, or what it rests on in the same round."""
    first = step.parts[0]
    needs = strategy_of(experiment).step(first.name).needs or first.name
    return step.subject not in experiment.client_names or all(
        attendance.in_time(store, step.round, name, [step.subject]) for name in (first.name, needs))


def _patiently(key: str, experiment: Experiment, store: Store, invoker: Invoker, stage: Stage, steps: list[Step],
               patience: Patience) -> Iterator[Record]:
    """The Records of those that answer before the deadline; then it is written down who that was."""
    if not invoker.patient:
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


def sweep(store: Store, strategy: Strategy, before: int) -> None:
    """Delete what rounds earlier than `before` left: nobody reads it.

    What the strategy keeps stays, and where clients have models of their own, those of the ones that missed round
    `before`.
    """
    counted = attendance.read(store, before).values() if strategy.personal else ()
    for name in store.names():
        there = names.read(name)
        if there is None or there.round >= before or there.kind in strategy.keeps:
            continue
        behind = any(there.owner not in clients for clients in counted)
        if not (behind and name == strategy.model(there.round, there.owner)):
            store.delete(name)


def _left(stage: Stage, done: set[Step]) -> list[Step]:
    """The stage's Steps that have no Record; of a fused one begun in single ones only the rest.

    What the first parts of that one read may be swept away already.
    """
    return [Step.joined(rest) for step in stage.steps if (rest := [part for part in step.parts if part not in done])]
