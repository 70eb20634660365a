"""How long, how many bytes and how expensive a run would be, from one Step of each kind that is really made here.

A probe is carried out first: one round of the experiment with one client of each architecture and one epoch of each
training. What its Steps took is scaled up by the images that the experiment's own Steps train on and predict, and
counted as often as its workflow calls them. Early stops are not foreseen: where they come, the run is shorter.
"""

import os
import tempfile
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel
from tqdm.auto import tqdm

from kdlib.cohort.history import in_turn
from kdlib.data import sets
from kdlib.invoke.perform import measured, perform
from kdlib.invoke.strategy import Sizes, strategy_of
from kdlib.reports.cost import PAPER, Limits, Prices
from kdlib.runs import runner
from kdlib.settings.experiment import Experiment
from kdlib.store.store import Store

PREDICTED = 0.25  # what it costs to predict an item, of what it costs to train on one: no backward pass, no dropout
FEW = 1000  # public items that a probe trains on at most, or an alignment sample's where that has more


class Estimate(BaseModel):
    """What a run would take.

    seconds: on `cores` cores of this machine, with as many Steps side by side as their threads leave room for;
    modelled: if all of a stage's Steps ran side by side, as functions do; invocations; bytes_moved: through the Store;
    usd: by the prices called `prices`; per_step: seconds of all invocations; scaled: by which factor a Step's measured
    seconds were scaled up; probe: seconds that the measuring took.
    """

    seconds: float
    modelled: float
    cores: int
    invocations: int
    bytes_moved: float
    usd: float
    prices: str
    per_step: dict[str, float]
    scaled: dict[str, float]
    probe: float

    def text(self) -> str:
        """The same for a reader."""
        lines = [f"{duration(self.seconds)} on {self.cores} cores of this machine, {duration(self.modelled)} where all "
                 f"functions of a stage run side by side",
                 f"{self.invocations:,} invocations, {self.bytes_moved / 1e6:,.0f} MB through the store, "
                 f"{self.usd:.2f} USD ({self.prices})", "seconds of all invocations (scaled up from what was measured)"]
        lines += [f"  {name:12} {value:12,.1f}  x {self.scaled[name]:.3g}" for name, value in self.per_step.items()]
        return "\n".join([*lines, f"measured in {duration(self.probe)}; early stops would shorten it"])


class Cost(NamedTuple):
    """What one invocation takes: seconds in the function, and bytes read and written."""

    seconds: float
    bytes: float


def estimate(experiment: Experiment, prices: Prices, cores: int | None = None, limits: Mapping[str, Limits] = PAPER,
             progress: bool = True) -> Estimate:
    """Carry the probe out in a folder of its own, gone at the end, and scale it up.

    cores: of the machine that the run would have; default: this one's. Raises KdlibError for missing or unfit data.
    """
    began, cores = time.perf_counter(), cores or os.cpu_count() or 1
    drawn = sets.prepare(experiment)
    public, wanted = len(drawn.public.y), experiment.setting("alignment_items") or 0
    sizes = Sizes(len(drawn.private.y) // experiment.clients, public, min(public, wanted), len(drawn.validation.y))
    few = sizes._replace(public=min(public, max(FEW, wanted)))
    small = probe(experiment, few)
    taken = measure(small, progress)
    strategy = strategy_of(experiment)
    scaled = {step: (work(experiment, step, sizes) / work(small, step, few)) if work(small, step, few) else 1.0
              for step, _ in taken}
    # What the server reads grows with the clients; all others read and write the same objects in any run.
    costs = {(step, of): Cost(cost.seconds * scaled[step], cost.bytes * (1 if of else scaled[step]))
             for (step, of), cost in taken.items()}
    places, calls = max(1, cores // experiment.threads), []
    seconds = modelled = 0.0
    for stage in strategy.stages(experiment, in_turn(experiment)):
        own = [costs[stage.name, architecture(experiment, subject)] for subject in stage.subjects]
        longest = max(cost.seconds for cost in own)
        modelled += longest
        seconds += max(longest, sum(cost.seconds for cost in own) / places)
        calls += [(stage.name, strategy.carrier(stage.name, subject), cost)
                  for subject, cost in zip(stage.subjects, own, strict=True)]
    per_step: dict[str, float] = {}
    for step, _, cost in calls:
        per_step[step] = per_step.get(step, 0.0) + cost.seconds
    usd = sum(prices.of(of).cost(cost.seconds, limits[of]) for _, of, cost in calls)
    return Estimate(seconds=seconds, modelled=modelled, cores=cores, invocations=len(calls), usd=float(usd),
                    bytes_moved=sum(cost.bytes for *_, cost in calls), prices=prices.title, per_step=per_step,
                    scaled={step: scaled[step] for step in per_step}, probe=time.perf_counter() - began)


def probe(experiment: Experiment, sizes: Sizes) -> Experiment:
    """The experiment cut down to a round, a client of each architecture, an epoch of each training."""
    count = len(experiment.architectures)
    changes: dict[str, Any] = {name: 1 for name in type(experiment).model_fields if name.endswith("_epochs")}
    changes |= {"rounds": 1, "clients": count, "clients_per_round": count, "samples": sizes.client,
                "public_items": sizes.public, "selection": "round-robin", **strategy_of(experiment).probe(experiment)}
    return experiment.model_copy(update={name: value for name, value in changes.items()
                                         if name in type(experiment).model_fields})


def measure(small: Experiment, progress: bool) -> dict[tuple[str, str | None], Cost]:
    """(step, architecture; None for the server) -> what its last invocation took."""
    found = {}
    with tempfile.TemporaryDirectory() as place:
        store = Store(place)
        runner.deploy(small, sets.prepare(small), store)
        stages = strategy_of(small).stages(small, in_turn(small))
        steps = [step for stage in stages for step in stage.steps]
        perform(small, store, steps[0])  # imports and first touches are paid for apart
        for step in tqdm(steps, desc="one Step of each kind", unit="step", disable=not progress):
            record = measured(perform, "probe", small, store, step, "inline")
            found[step.name, architecture(small, step.subject)] = Cost(record.seconds,
                                                                       record.bytes_in + record.bytes_out)
    return found


def work(experiment: Experiment, step: str, sizes: Sizes) -> float:
    """What an invocation's time grows with: items trained on, predicted ones at PREDICTED; at the server, objects."""
    declared = strategy_of(experiment).step(step).work(experiment, sizes)
    return declared.trained + PREDICTED * declared.predicted + declared.gathered


def architecture(experiment: Experiment, subject: str) -> str | None:
    """Of a client, or the architecture itself; None for the server."""
    models = {*experiment.client_names, *experiment.architectures}
    return experiment.architecture_of(subject) if subject in models else None


def duration(seconds: float) -> str:
    """For a reader: 42 s, 3 min 10 s, 5 h 2 min."""
    minutes, hours = divmod(round(seconds), 60), divmod(round(seconds / 60), 60)
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{minutes[0]} min {minutes[1]} s" if seconds < 3600 else f"{hours[0]} h {hours[1]} min"
