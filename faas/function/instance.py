"""One instance of a function: whose Steps it carries out, what it keeps warm, and how a Step is carried out once."""

import contextlib
import json
from typing import NamedTuple

from faas.function.identity import Identity
from kdlib.errors import KdlibError, Missing
from kdlib.invoke.steps import Step, measured
from kdlib.invoke.tokens import AGGREGATOR, Forbidden
from kdlib.settings.experiment import Experiment, from_json
from kdlib.store.store import Store
from kdlib.strategies.perform import STRATEGIES, perform

MOST_RUNS = 2  # whose data stay in memory


class Warm(NamedTuple):
    """What an instance keeps of a run. subjects: (step name, round) -> by or for whom there is such a Step."""

    store: Store
    experiment: Experiment
    subjects: dict[tuple[str, int], frozenset[str]]


class Anybody:
    """A History in which every client is chosen in every round: only the driving process knows better."""

    def __init__(self, experiment: Experiment):
        self.experiment = experiment

    def chosen(self, round_: int) -> tuple[str, ...]:
        """See kdlib.cohort.history.History.chosen."""
        return self.experiment.client_names


class Instance:
    """One instance of a function. It carries out one Step at a time."""

    def __init__(self, identity: Identity):
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
        words = step.name.replace("+", "_").replace(">", "__")
        # Under a name without a round: it outlasts the round's objects, or a late repetition would write them anew.
        name = f"{own}/records/{step.round:03}-{step.subject}-{words}"
        with contextlib.suppress(Missing):
            return store.get_json(name)
        record = measured(perform, run, experiment, store, step, "http")
        return store.keep_first_json(name, record.model_dump_json())

    def _warm(self, run: str) -> Warm:
        if run not in self._runs:
            store = Store(f"{self.identity.store}/{run}")
            experiment = from_json(json.dumps(store.get_json("public/experiment")))
            stages = STRATEGIES[experiment.strategy].workflow(experiment, Anybody(experiment))
            subjects = {(stage.name, stage.round): frozenset(stage.subjects) for stage in stages}
            self._runs[run] = Warm(store, experiment, subjects)
            while len(self._runs) > MOST_RUNS:
                del self._runs[next(iter(self._runs))]
        return self._runs[run]
