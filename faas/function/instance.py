"""One instance of a function: whose Steps it carries out, what it keeps warm, and how a Step is carried out once."""

import contextlib
import json
from typing import NamedTuple

from faas.function.identity import Identity
from kdlib.errors import KdlibError, Missing
from kdlib.invoke.perform import measured, perform
from kdlib.invoke.steps import Step
from kdlib.invoke.strategy import everybody, expect_sources, strategy_of
from kdlib.invoke.tokens import AGGREGATOR, Forbidden
from kdlib.settings.experiment import Experiment, from_json
from kdlib.store import names
from kdlib.store.store import Store

MOST_RUNS = 2  # whose data stay in memory


class Warm(NamedTuple):
    """What an instance keeps of a run. subjects: (step name, round) -> by or for whom there is such a Step."""

    store: Store
    experiment: Experiment
    subjects: dict[tuple[str, int], frozenset[str]]


class Instance:
    """One instance of a function. It carries out one Step at a time."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self._runs: dict[str, Warm] = {}

    def carry_out(self, run: str, step: Step) -> str:
        """The Record of the Step as JSON: that of its first time, whatever the number of calls.

        A Step that ended without its Record is carried out again, and writes the same bytes as the first time.
        Raises Forbidden for another function's Step, KdlibError for one that the run has not, and what a Store raises.
        """
        own = self.identity.subject
        if (step.subject != own) if own != AGGREGATOR else step.subject.startswith("client-"):
            raise Forbidden(f"this is the function of {own}, which does nothing for {step.subject}")
        store, experiment, subjects = self._warm(run)
        for part in step.parts:
            if part.subject not in subjects.get((part.name, part.round), ()):
                raise KdlibError(f"run {run} has no {part.name} of {part.subject} in round {part.round}")
        name = names.record(own, step.round, step.subject, step.name)
        with contextlib.suppress(Missing):
            return _text(store.get_json(name))
        record = measured(perform, run, experiment, store, step, "http")
        return _text(store.keep_first_json(name, record.model_dump_json()))

    def _warm(self, run: str) -> Warm:
        if run not in self._runs:
            store = Store(f"{self.identity.store}/{run}")
            experiment = from_json(json.dumps(store.get_json(names.EXPERIMENT)))
            if experiment.sources:
                sources = store.get_json(names.SOURCES)
                assert isinstance(sources, dict)  # as kdlib.runs.runner wrote it
                expect_sources(experiment, sources)
            # Only the driving process knows who is chosen in which round.
            stages = strategy_of(experiment).stages(experiment, everybody(experiment))
            subjects = {(stage.name, stage.round): frozenset(stage.subjects) for stage in stages}
            self._runs[run] = Warm(store, experiment, subjects)
            while len(self._runs) > MOST_RUNS:
                del self._runs[next(iter(self._runs))]
        return self._runs[run]


def _text(record: object) -> str:
    assert isinstance(record, str)  # as `carry_out` wrote it
    return record
