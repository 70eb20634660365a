"""What a Step may say that it measured: names that the house knows or the strategy declares, and values that can be.

    accuracy                        0 to 1
    items batches scores clients    counts
    loss best, and ..._loss         any number, even NaN or infinite: training may diverge
    what a strategy declares        finite (Strategy.metrics)
"""

import math
from collections.abc import Container, Mapping

from kdlib.errors import KdlibError
from kdlib.invoke.steps import Record, Step
from kdlib.invoke.strategy import strategy_of
from kdlib.settings.experiment import Experiment

COUNTS = ("items", "batches", "scores", "clients")
MAY_DIVERGE = ("loss", "best")
KNOWN = ("accuracy", *COUNTS, *MAY_DIVERGE)


def expect_record(record: Record, key: str, experiment: Experiment, steps: Container[Step] | None = None) -> None:
    """Raises KdlibError unless the Record can be one of the run, and of one of these `steps` where they are given."""
    own = Step(record.step, record.round, record.subject)
    if record.run != key:
        raise KdlibError(f"a Record is of run {record.run[:40]}; allowed: {key}")
    if steps is not None and own not in steps:
        raise KdlibError(f"a Record is of {own.name} of {own.subject} in round {own.round}, which nobody asked for")
    strategy = strategy_of(experiment)
    if own.subject.startswith("client-") and not experiment.has_client(own.subject):
        raise KdlibError(f"a Record is of {own.subject}; allowed: client-0000 to {experiment.client_names[-1]}")
    for step, part in record.done.items():
        strategy.step(step.name)
        if step.round > experiment.rounds:
            raise KdlibError(f"a Record is of round {step.round}; allowed: {experiment.rounds} at most")
        if wrong := _wrong(part.metrics, strategy.metrics):
            raise KdlibError(f"{step.name} of {step.subject} in round {step.round} measured {wrong}")


def diverged(record: Record) -> list[str]:
    """A line for each metric that is NaN or infinite."""
    return [f"{name} is {value}: {step.name} of {step.subject} in round {step.round} diverged"
            for step, part in record.done.items() for name, value in part.metrics.items() if not math.isfinite(value)]


def _wrong(metrics: Mapping[str, float], declared: tuple[str, ...]) -> str | None:
    """What is wrong with a Step's metrics, and what would not be."""
    for name, value in metrics.items():
        if name not in (*KNOWN, *declared):
            return f"{name}, which its strategy does not declare; allowed: {', '.join((*KNOWN, *declared))}"
        if name == "accuracy" and not 0 <= value <= 1:
            return f"an accuracy of {value:g}; allowed: 0 to 1"
        if name in COUNTS and not (0 <= value < 2**53 and value == int(value)):
            return f"{name} of {value:g}; allowed: a whole number, 0 at least"
        if not (math.isfinite(value) or name in MAY_DIVERGE or name.endswith("_loss")):
            return f"{name} of {value:g}; allowed: a finite number"
    return None
