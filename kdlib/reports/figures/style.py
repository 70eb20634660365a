"""What all figures share: how strategies and mixes are called, and what colour a step has."""

import seaborn as sns

TITLES = {"fedmd": "FedMD", "feddf": "FedDF", "alone": "alone", "fedavg": "FedAvg"}
STEPS = ("pretrain", "transfer", "communicate", "aggregate", "digest", "revisit", "train", "teach", "distil", "average",
         "evaluate")


def title(strategy: str) -> str:
    """The strategy as a figure calls it; see kdlib.reports.times.label."""
    name, *fused = strategy.split()
    return ", ".join([TITLES[name], *fused])


def colour(step: str) -> tuple[float, float, float]:
    """The step's colour in every figure; a fused one has that of its first part."""
    place = STEPS.index(step.partition("+")[0].partition(">")[0])
    return sns.color_palette("husl", len(STEPS))[4 * place % len(STEPS)]  # steps that follow each other differ


def mixed(mix: float | str) -> str:
    """How a figure or a table calls an Experiment's `mix`."""
    return f"by {mix}" if isinstance(mix, str) else f"alpha = {mix:g}"
