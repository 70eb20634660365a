"""Clients that are left out of a round: those that are late, that fail, and those whose objects are damaged.

Whom a round left out, and why, is a line of left_out.jsonl in the run's folder, written before anything acts on it.
"""

import logging
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kdlib.cohort import attendance
from kdlib.errors import KdlibError
from kdlib.invoke.invokers import Invoker
from kdlib.invoke.steps import Record, Round, Stage, Step, StepName, Subject
from kdlib.invoke.strategy import strategy_of
from kdlib.runs.journal import Journal, whole_lines
from kdlib.runs.run import LEFT_OUT, Run
from kdlib.settings.experiment import Experiment
from kdlib.store import names
from kdlib.store.store import Store
from kdlib.toml import one_line

log = logging.getLogger("kdlib")


class Patience(NamedTuple):
    """How a round deals with clients that are late or fail.

    deadline: seconds that a stage waits for its clients; least_share: of them, 0-1, below which the round fails.
    """

    deadline: float
    least_share: float


class Absence(BaseModel):
    """That a client's Step does not count in its round, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    round: Round
    step: StepName
    client: Subject
    why: Annotated[str, Field(max_length=2000)]


def left_out(folder: Path) -> dict[Step, str]:
    """The Steps that the run in the folder left out -> why. Raises KdlibError for a line that says none."""
    found = {}
    for number, line in enumerate(whole_lines(folder / LEFT_OUT), 1):
        try:
            one = Absence.model_validate_json(line)
        except ValidationError as error:
            raise KdlibError(f"{folder / LEFT_OUT} line {number} leaves nobody out: {one_line(error)}") from error
        found[Step(one.step, one.round, one.client)] = one.why
    return found


def counts(experiment: Experiment, store: Store, step: Step) -> bool:
    """False where it is written down that the Step's client missed it, or what it rests on in the same round."""
    first = step.parts[0]
    needs = strategy_of(experiment).step(first.name).needs or first.name
    return not experiment.has_client(step.subject) or all(
        attendance.in_time(store, step.round, name, [step.subject]) for name in (first.name, needs))


def patiently(the_run: Run, store: Store, invoker: Invoker, stage: Stage, steps: list[Step],
              patience: Patience) -> Iterator[Record]:
    """The Records of those that answer before the deadline; then it is written down who that was."""
    if not invoker.patient:
        raise KdlibError(f"a deadline is for functions, which may be late; allowed: --invoker http, not {invoker.name}")
    missed: dict[Step, KdlibError] = {}
    timer = threading.Timer(patience.deadline, invoker.cancel)
    timer.start()
    try:
        for step, outcome in invoker.attempt(the_run.key, the_run.experiment, store, steps):
            if isinstance(outcome, Record):
                yield outcome
            else:
                missed[step] = outcome
    finally:
        timer.cancel()
    there = [step.subject for step in stage.steps if step not in missed and counts(the_run.experiment, store, step)]
    _expect_enough(stage.round, stage.name, len(there), len(stage.subjects), patience, missed.values())
    if len(there) < len(stage.subjects):
        _leave_out(the_run, store, stage.steps[0].parts, there,
                   {step.subject: str(error) for step, error in missed.items()})


def without_damaged(the_run: Run, store: Store, invoker: Invoker, steps: list[Step], patience: Patience,
                    called: Iterable[Step]) -> Iterator[Record]:
    """The Records of a server's Steps; a client that wrote what is damaged is left out, and the Steps are tried again.

    called: the clients' Steps so far; of this round all of such a client's, as nothing that it says can be believed.
    """
    while steps:
        failed: dict[Step, KdlibError] = {}
        for step, outcome in invoker.attempt(the_run.key, the_run.experiment, store, steps):
            if isinstance(outcome, Record):
                yield outcome
            else:
                failed[step] = outcome
        if failed:
            _without(the_run, store, steps[0].round, failed, patience, called)
        steps = list(failed)


def _without(the_run: Run, store: Store, round_: int, failed: dict[Step, KdlibError], patience: Patience,
             called: Iterable[Step]) -> None:
    """Leave out whose objects the Steps failed for. Raises what else they failed for."""
    subjects: dict[str, list[str]] = defaultdict(list)
    for step in called:
        for part in step.parts:
            if part.round == round_:
                subjects[part.name].append(part.subject)
    damaged: dict[str, str] = {}
    for error in failed.values():
        there = names.read(error.damaged) if error.damaged else None
        if there is None or there.round != round_ or not any(
                there.owner in attendance.in_time(store, round_, name, clients) for name, clients in subjects.items()):
            raise error
        damaged[there.owner] = str(error)
    for name, clients in subjects.items():
        left = [client for client in attendance.in_time(store, round_, name, clients) if client not in damaged]
        _expect_enough(round_, name, len(left), len(clients), patience, failed.values())
        _leave_out(the_run, store, [Step(name, round_, "")], left, damaged)


def _expect_enough(round_: int, name: str, there: int, called: int, patience: Patience,
                   why: Iterable[KdlibError]) -> None:
    if there < patience.least_share * called or not there:
        raise KdlibError(f"round {round_}: {there} of {called} clients did {name}, allowed: a share of "
                         f"{patience.least_share:g} or more; {'; '.join(map(str, why))}; the same command tries again")


def _leave_out(the_run: Run, store: Store, parts: Iterable[Step], there: list[str], why: dict[str, str]) -> None:
    """Write down that of these Steps only those of the clients `there` count; why: of each that is left out now."""
    for client, reason in why.items():
        log.warning("kdlib: %s is left out of round %d: %s", client, next(iter(parts)).round, reason)
    with Journal(the_run.folder / LEFT_OUT) as lines:
        for part in parts:
            for client, reason in why.items():
                absence = Absence(round=part.round, step=part.name, client=client, why=reason[:2000])
                lines.add(absence.model_dump_json())
    for part in parts:
        attendance.write(store, part.round, part.name, there)
