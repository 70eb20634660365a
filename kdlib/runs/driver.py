"""Drives a strategy's workflow: stage by stage, with resume, progress, and patience for late clients."""

import logging
from collections.abc import Callable

from kdlib.cohort import attendance
from kdlib.cohort.history import History
from kdlib.invoke.invokers import Invoker
from kdlib.invoke.metrics import diverged, expect_record
from kdlib.invoke.steps import Record, Stage, Step
from kdlib.invoke.strategy import Strategy, everybody, strategy_of
from kdlib.runs.absences import Patience, counts, patiently, without_damaged
from kdlib.runs.journal import Journal
from kdlib.runs.progress import Progress
from kdlib.runs.run import Run
from kdlib.settings.shared import Selecting
from kdlib.store import names
from kdlib.store.store import Store

Watch = Callable[[Run], object]

log = logging.getLogger("kdlib")


def drive(the_run: Run, store: Store, invoker: Invoker, repetition: int, progress: bool, fused: bool = False,
          patience: Patience | None = None, watch: Watch | None = None) -> None:
    """Carry out every Step that has no Record yet, stage by stage, and append the Records as they come.

    watch: called with the run after every round.
    Without `patience` the first Step that fails ends it. With it, clients that miss the deadline, fail, or wrote what
    is damaged are left out of what follows in the round, which is written down first (kdlib.cohort.attendance); raises
    KdlibError where too few are left.
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
        earlier, called = None, list[Step]()
        for stage in strategy.stages(experiment, chosen, fused):  # each when the last is over: it may depend on it
            if earlier and earlier.round < stage.round:
                lines.sync()  # first: what a lost Record's Step would read again must still be there
                sweep(store, strategy, stage.round - 1)
                if watch:
                    watch(the_run)
                called = [step for step in called if step.parts[-1].round >= stage.round]
            earlier = stage
            steps = [step for step in _left(stage, done) if counts(experiment, store, step)]
            of_clients = set(stage.subjects) <= clients
            if of_clients:
                called += stage.steps
            if patience and stage.round and of_clients:
                came = patiently(the_run, store, invoker, stage, steps, patience)
            elif patience and stage.round:
                came = without_damaged(the_run, store, invoker, steps, patience, called)
            else:
                came = invoker.run(the_run.key, experiment, store, steps)
            asked = frozenset(steps)
            for record in came:
                expect_record(record, the_run.key, experiment, asked)
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
