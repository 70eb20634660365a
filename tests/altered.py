"""Strategies with a fault, for tests that must notice it."""

from dataclasses import replace
from functools import wraps

from kdlib.registry import STRATEGIES, Part


def declare(patch, strategy, **changes):
    """kdlib's strategy of that name declares these fields otherwise, until `patch` is undone."""
    altered = replace(STRATEGIES.find(strategy).value, **changes)
    patch.setitem(STRATEGIES._own_parts(), strategy, Part(altered, None))


def handlers(patch, strategy, **instead):
    """Its steps of these names have other handlers, until `patch` is undone."""
    steps = STRATEGIES.find(strategy).value.steps
    assert set(instead) <= {step.name for step in steps}
    declare(patch, strategy, steps=tuple(
        replace(step, handler=_called_like(step.handler, instead[step.name])) if step.name in instead else step
        for step in steps))


def _called_like(handler, instead):
    return wraps(handler)(lambda *arguments: instead(*arguments))  # a new one each time: its name is the step's
