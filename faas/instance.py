"""One instance of a function: whose Steps it carries out, what it keeps warm, and how a Step is carried out once."""

import contextlib
import json
import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from kdlib import tokens
from kdlib.errors import KdlibError, Missing
from kdlib.experiment import Experiment, from_json
from kdlib.invoke import Step, measured
from kdlib.invoke_http import AGGREGATOR
from kdlib.perform import STRATEGIES, perform
from kdlib.store import Store

SUBJECT = re.compile(rf"{AGGREGATOR}|client-[0-9]{{4}}")
MOST_RUNS = 2  # whose data stay in memory


class Warm(NamedTuple):
    """What an instance keeps of a run. subjects: (step name, round) -> by or for whom there is such a Step."""

    store: Store
    experiment: Experiment
    subjects: dict[tuple[str, int], frozenset[str]]


class Instance:
    """One instance of the function of `subject` (client-0000 ..., or aggregator).

    store: URL of a store without a run's key, `{owner}` in it; accepted: the secrets of the tokens that it honours.
    One Step at a time. Raises KdlibError for another subject or store than a function can have.
    """

    def __init__(self, subject: str, store: str, accepted: tuple[str, ...]):
        if not SUBJECT.fullmatch(subject):
            raise KdlibError(f"KDLIB_SUBJECT is {subject!r}; allowed: {AGGREGATOR}, or client- and four digits")
        if "{owner}" not in store:
            raise KdlibError(f"KDLIB_STORE is {store!r}; allowed: a URL with {{owner}} in it, such as "
                             "file:///store/{owner}")
        self.subject, self.store, self.accepted = subject, store.rstrip("/"), accepted
        self._runs: dict[str, Warm] = {}

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Instance":
        """By KDLIB_SUBJECT, KDLIB_STORE and KDLIB_SECRETS (see faas.access). Raises KdlibError for what is wrong."""
        accepted = tokens.secrets(environment.get("KDLIB_SECRETS"))
        return cls(environment.get("KDLIB_SUBJECT", ""), environment.get("KDLIB_STORE", ""), accepted)

    def admit(self, token: str) -> str:
        """The run that a bearer token is for. Raises kdlib.tokens.Unauthorised and Forbidden."""
        return tokens.verified(token, self.accepted, self.subject)

    def carry_out(self, run: str, step: Step) -> str:
        """The Record of the Step as JSON: that of its first time, whatever the number of calls.

        A Step that ended without its Record is carried out again, and writes the same bytes as the first time.
        Raises Forbidden for another function's Step, KdlibError for one that the run has not, and what a Store raises.
        """
        if (step.subject != self.subject) if self.subject != AGGREGATOR else step.subject.startswith("client-"):
            raise tokens.Forbidden(f"this is the function of {self.subject}, which does nothing for {step.subject}")
        store, experiment, subjects = self._warm(run)
        for part in step.parts:
            if part.subject not in subjects.get((part.name, part.round), ()):
                raise KdlibError(f"run {run} has no {part.name} of {part.subject} in round {part.round}")
        words = step.name.replace("+", "_").replace(">", "__")
        # Under a name without a round: it outlasts the round's objects, or a late repetition would write them anew.
        name = f"{self.subject}/records/{step.round:03}-{step.subject}-{words}"
        with contextlib.suppress(Missing):
            return store.get_json(name)
        record = measured(perform, run, experiment, store, step, "http")
        return store.keep_first_json(name, record.model_dump_json())

    def _warm(self, run: str) -> Warm:
        if run not in self._runs:
            store = Store(f"{self.store}/{run}")
            experiment = from_json(json.dumps(store.get_json("public/experiment")))
            stages = STRATEGIES[experiment.strategy].workflow(experiment)
            subjects = {(stage.name, stage.round): frozenset(stage.subjects) for stage in stages}
            self._runs[run] = Warm(store, experiment, subjects)
            while len(self._runs) > MOST_RUNS:
                del self._runs[next(iter(self._runs))]
        return self._runs[run]
