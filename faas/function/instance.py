"""One instance of a function: whose Steps it carries out, what it keeps warm, and how a Step is carried out once."""

import contextlib
import json
from typing import NamedTuple

from faas.function.identity import Identity
from kdlib.errors import Damaged, KdlibError, Missing
from kdlib.invoke.perform import measured, perform
from kdlib.invoke.steps import Step
from kdlib.invoke.strategy import everybody, expect_sources, strategy_of
from kdlib.invoke.tokens import AGGREGATOR, Claims, Forbidden
from kdlib.settings.experiment import Experiment, from_json
from kdlib.store import names
from kdlib.store.store import Store

MOST_RUNS = 2  # whose data stay in memory


class Warm(NamedTuple):
    """What an instance keeps of a run.

    vouched: the experiment's fingerprint, which callers must know; subjects: (step name, round) -> by or for whom there
    is such a Step.
    """

    store: Store
    experiment: Experiment
    vouched: str
    subjects: dict[tuple[str, int], frozenset[str]]


class Instance:
    """One instance of a function. It carries out one Step at a time."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self._runs: dict[str, Warm] = {}

    def carry_out(self, claims: Claims, step: Step) -> str:
        """The Record of the Step as JSON: that of its first time, whatever the number of calls.

        A Step that ended without its Record is carried out again, and writes the same bytes as the first time.
        Raises Forbidden for another function's Step, KdlibError for one that the run has not, or where the caller means
        another experiment than `public` holds, and what a Store raises.
        """
        own, run = self.identity.subject, claims.run
        if (step.subject != own) if own != AGGREGATOR else step.subject.startswith("client-"):
            raise Forbidden(f"this is the function of {own}, which does nothing for {step.subject}")
        store, experiment, vouched, subjects = self._warm(run)
        if claims.experiment != vouched:
            raise KdlibError(f"{names.EXPERIMENT} of run {run} is not the experiment that the caller vouches for; "
                             "allowed: the one that the run was begun with")
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
                if not isinstance(sources, dict):
                    raise Damaged(f"{names.SOURCES} is damaged: it names no sources")
                expect_sources(experiment, sources)
            # Only the driving process knows who is chosen in which round.
            stages = strategy_of(experiment).stages(experiment, everybody(experiment))
            subjects = {(stage.name, stage.round): frozenset(stage.subjects) for stage in stages}
            self._runs[run] = Warm(store, experiment, experiment.fingerprint(), subjects)
            while len(self._runs) > MOST_RUNS:
                del self._runs[next(iter(self._runs))]
        return self._runs[run]


def _text(record: object) -> str:
    if not isinstance(record, str):
        raise Damaged("a Record of the function's own is damaged: it is no text")
    return record
