"""How long a client's training takes where that is modelled, and which calls fail. Nothing here sleeps or measures.

    duration = work of the architecture on one item x items x local epochs x the client's slow-down

Like everything else that decides a result, who is slow and who fails is drawn from the seed.
"""

import functools
from collections.abc import Mapping

from kdlib.learning.models import work
from kdlib.settings.shared import Selecting

SPEED = 10e9  # multiply-accumulates a second: a nominal core, so that durations are of the size of seconds
BACKWARD = 2  # times the work of the forward pass: the gradients of the activations, and those of the weights


def modelled(experiment: Selecting, client: str, items: int) -> float:
    """Seconds that the client trains in a round, holding so many private items."""
    forward = work(experiment, experiment.architecture_of(client)) / SPEED
    slow_down = experiment.slow.factor if experiment.slow and client in slow(experiment) else 1.0
    return forward * (1 + BACKWARD) * items * experiment.local_epochs * slow_down


def deadline(experiment: Selecting, items: Mapping[str, int]) -> float:
    """Seconds that a round waits for a call that fails: until the slowest client there is would have answered."""
    return max(modelled(experiment, client, count) for client, count in items.items())


def slow(experiment: Selecting) -> frozenset[str]:
    """The slow clients."""
    return _drawn(experiment, "slow", experiment.slow.share if experiment.slow else 0.0)


def unreliable(experiment: Selecting) -> frozenset[str]:
    """The clients whose calls may fail."""
    return _drawn(experiment, "fail", experiment.fail.share if experiment.fail else 0.0)


def fails(experiment: Selecting, round_: int, client: str) -> bool:
    """Whether the client's call in this round fails."""
    return (experiment.fail is not None and client in unreliable(experiment)
            and experiment.rng(round_, client, "fail").random() < experiment.fail.rate)


@functools.lru_cache(maxsize=256)
def _drawn(experiment: Selecting, purpose: str, share: float) -> frozenset[str]:
    order = experiment.rng(0, "server", purpose).permutation(experiment.clients)
    return frozenset(experiment.client_names[index] for index in order[: round(share * experiment.clients)])
