"""What all figures share: how strategies and mixes are called and drawn, and what colour a step has."""

from collections.abc import Iterable, Sequence
from math import gcd

import seaborn as sns

from kdlib.invoke.steps import Step
from kdlib.invoke.strategy import Line, Strategy
from kdlib.registry import STRATEGIES

RGB = tuple[float, float, float]
FREE = sns.color_palette("colorblind")[4:]  # for strategies that declare no colour


def title(strategy: str) -> str:
    """The strategy as a figure calls it; see kdlib.reports.times.label."""
    name, *fused = strategy.split()
    return ", ".join([declared(name).title, *fused])


def declared(name: str) -> Strategy:
    """The strategy of that name."""
    return STRATEGIES.find(name).value


def in_order(strategies: Iterable[str]) -> list[str]:
    """Each once, as they come, baselines last."""
    return sorted(dict.fromkeys(strategies), key=lambda name: declared(name.split()[0]).baseline)


def looks(strategies: Sequence[str]) -> dict[str, tuple[str | RGB, Line]]:
    """Strategy -> colour and line, as it declares them, or a colour that is free."""
    free = iter(FREE * len(strategies))
    return {name: (declared(name).colour or next(free), declared(name).line) for name in strategies}


def colour(strategy: Strategy, step: str) -> RGB:
    """The step's colour in every figure of the strategy; a fused one has that of its first part."""
    names = [each.name for each in strategy.steps]
    place = names.index(Step(step, 0, "").parts[0].name)
    apart = next(stride for stride in (4, 3, 5, 7, 1) if gcd(stride, len(names)) == 1)  # neighbours differ
    return sns.color_palette("husl", len(names))[apart * place % len(names)]


def mixed(mix: float | str) -> str:
    """How a figure or a table calls an Experiment's `mix`."""
    return f"by {mix}" if isinstance(mix, str) else f"alpha = {mix:g}"
