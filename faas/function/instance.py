"""One instance of a function: whose Steps it carries out, what it keeps warm, and how a Step is carried out once."""

import contextlib
import json
from collections import defaultdict
from typing import NamedTuple

from pydantic import ValidationError

from faas.function.identity import Identity
from kdlib.errors import Damaged, KdlibError, Missing
from kdlib.invoke.perform import measured, perform
from kdlib.invoke.steps import Record, Stage, Step
from kdlib.invoke.strategy import everybody, expect_sources, strategy_of
from kdlib.invoke.tokens import AGGREGATOR, Call, Forbidden
from kdlib.settings.experiment import Experiment, from_json
from kdlib.store import names
from kdlib.store.store import Store

MOST_RUNS = 2  # whose data stay in memory


class Warm(NamedTuple):
    """What an instance keeps of a run.

    vouched: the experiment's fingerprint, which callers must know; stages: (step name, round) -> where such a Step is a
    part, in the plain workflow and in the fused one.
    """

    store: Store
    experiment: Experiment
    vouched: str
    stages: dict[tuple[str, int], list[Stage]]

    def has(self, step: Step) -> bool:
        """Whether a workflow has the Step, or what is left of a fused one of which parts are done, in its order."""
        first = step.parts[0]
        for stage in self.stages.get((first.name, first.round), ()):
            whole = iter(Step(stage.name, stage.round, step.subject).parts)
            if step.subject in stage.subjects and all(part in whole for part in step.parts):
                return True
        return False


class Instance:
    """One instance of a function. It carries out one Step at a time."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self._runs: dict[str, Warm] = {}

    def carry_out(self, call: Call) -> str:
        """The Record of the Step as JSON: that of its first time, whatever the number of calls.

        Every part is carried out once, whatever Step it is asked for in. One that ended without its Record is carried
        out again, and writes the same bytes as the first time.
        Raises Forbidden for another function's Step, KdlibError for one that the run has not, or where the caller means
        another experiment than `public` holds, and what a Store raises.
        """
        own, run, step = self.identity.subject, call.run, call.step
        if (step.subject != own) if own != AGGREGATOR else step.subject.startswith("client-"):
            raise Forbidden(f"this is the function of {own}, which does nothing for {step.subject}")
        warm = self._warm(run)
        if call.experiment != warm.vouched:
            raise KdlibError(f"{names.EXPERIMENT} of run {run} is not the experiment that the caller vouches for; "
                             "allowed: the one that the run was begun with")
        if not warm.has(step):
            raise KdlibError(f"run {run} has no {step.name} of {step.subject} in round {step.round}")
        kept = self._kept(warm.store, step)
        if left := [part for part in step.parts if part not in kept]:
            record = measured(perform, run, warm.experiment, warm.store, Step.joined(left), "http")
            for part in reversed(left):  # killed in between, what is carried out again is no later part's input
                first = warm.store.keep_first_json(self._name(part), record.model_dump_json())
                kept[part] = _record(first, part)
        return _answer(step, kept).model_dump_json()

    def _kept(self, store: Store, step: Step) -> dict[Step, Record]:
        """Those of the Step's parts that are done, each with the Record of the invocation that did it."""
        found = {}
        for part in step.parts:
            with contextlib.suppress(Missing):
                found[part] = _record(store.get_json(self._name(part)), part)
        return found

    def _name(self, part: Step) -> str:
        return names.record(self.identity.subject, part.round, part.subject, part.name)

    def _warm(self, run: str) -> Warm:
        if run not in self._runs:
            store = Store(f"{self.identity.store}/{run}")
            experiment = from_json(json.dumps(store.get_json(names.EXPERIMENT)))
            if experiment.sources:
                sources = store.get_json(names.SOURCES)
                if not isinstance(sources, dict):
                    raise Damaged(f"{names.SOURCES} is damaged: it names no sources")
                expect_sources(experiment, sources)
            stages = defaultdict(list)
            strategy = strategy_of(experiment)
            for fused in {False, strategy.fused is not None}:
                # Only the driving process knows who is chosen in which round.
                for stage in strategy.stages(experiment, everybody(experiment), fused):
                    for part in Step(stage.name, stage.round, "").parts:
                        stages[part.name, part.round].append(stage)
            self._runs[run] = Warm(store, experiment, experiment.fingerprint(), dict(stages))
            while len(self._runs) > MOST_RUNS:
                del self._runs[next(iter(self._runs))]
        return self._runs[run]


def _record(kept: object, part: Step) -> Record:
    """The Record that the store keeps of the part. Raises Damaged where it is none."""
    try:
        if isinstance(kept, str) and part in (record := Record.model_validate_json(kept)).done:
            return record
    except ValidationError:
        pass
    raise Damaged(f"the Record of {part.name} in round {part.round}, of the function's own, is damaged")


def _answer(step: Step, kept: dict[Step, Record]) -> Record:
    """The Record of the invocation that carried the Step out; where it did more or less than that, one of its parts."""
    records = list({record.model_dump_json(): record for record in kept.values()}.values())  # NaN is not equal to NaN
    first = records[0]
    if len(records) == 1 and list(first.done) == step.parts:
        return first
    parts = tuple(kept[part].done[part] for part in step.parts)
    return first.model_copy(update={
        "step": step.name, "round": step.round, "parts": parts, "seconds": sum(part.seconds for part in parts),
        "bytes_in": sum(record.bytes_in for record in records),
        "bytes_out": sum(record.bytes_out for record in records),
        "cold": any(record.cold for record in records), "peak_memory": max(record.peak_memory for record in records)})
