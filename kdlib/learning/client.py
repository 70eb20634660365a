"""What a client does, whatever the strategy: load, train, predict logits, evaluate."""

import contextlib
import math
import signal
import threading
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdlib.errors import KdlibError
from kdlib.learning.engine import Batches, KeepBest, Loss, keep_freed_memory, predict, share_right
from kdlib.learning.models import start
from kdlib.learning.received import read_weights
from kdlib.settings.experiment import Experiment
from kdlib.settings.shared import LEAST
from kdlib.store.names import private, public, read
from kdlib.store.store import Store


def load(experiment: Experiment, store: Store, subject: str, name: str) -> nn.Module:
    """The subject's architecture with the weights stored under `name`. Raises Damaged where they are no such weights.

    Its own may have diverged: then its losses say so. Those of another party must be finite.
    """
    there = read(name)
    own = there is not None and there.owner == subject
    model = start(experiment, subject)
    model.load_state_dict(read_weights(experiment, store, subject, name, finite=not own))
    return model


def save(store: Store, name: str, model: nn.Module) -> None:
    """Store the model's weights, batch-norm statistics among them."""
    store.put(name, model.state_dict())


def fit(experiment: Experiment, model: nn.Module, batches: Batches, loss: Loss, epochs: int | None = None,
        steps: int | None = None, keep: KeepBest | None = None) -> dict[str, float]:
    """Train in place for `epochs`, or for `steps` batches over as many epochs as they need.

    With `keep` the model ends with the best weights seen. Dropout draws from torch's global generator, which the
    caller has seeded for this Step. Returns the mean loss and how many batches and items it saw.
    """
    with interrupts_wait():  # Lightning takes seconds to import; a Step that only predicts needs none
        from kdlib.learning.training import train

    keep_freed_memory()
    mean_loss, done = train(experiment, model, batches, loss, epochs, steps, keep)
    if keep:
        assert keep.weights is not None  # it has looked once at least
        model.load_state_dict(keep.weights)
    metrics = {"loss": mean_loss, "batches": done, "items": len(batches.x)}
    return metrics | ({"scores": keep.scores, "best": keep.best} if keep else {})


@contextlib.contextmanager
def interrupts_wait() -> Iterator[None]:
    """An interrupt that comes inside is raised at the end: some imports swallow it, and the run would go on."""
    if threading.current_thread() is not threading.main_thread():  # only that one hears of interrupts
        yield
        return
    came: list[bool] = []
    before = signal.signal(signal.SIGINT, lambda *_: came.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before or signal.default_int_handler)
    if came and before is not signal.SIG_IGN:
        raise KeyboardInterrupt


def train_privately(experiment: Experiment, store: Store, round_: int, client: str, model: nn.Module, epochs: int,
                    step: str) -> dict[str, float]:
    """A client's epochs on its own private part: cross-entropy, the experiment's optimizer and batch."""
    own = store.get(private(client, "data"))
    order = experiment.entropy(round_, client, f"{step}/order")
    batches = Batches(experiment, own["x"], own["y"], experiment.batch, order)
    return fit(experiment, model, batches, F.cross_entropy, epochs=epochs)


def test_accuracy(experiment: Experiment, store: Store, subject: str, weights: str) -> dict[str, float]:
    """Accuracy of stored weights on the private test set, or where it is a client's own, on the subject's.

    A model that answers with what is no number has an accuracy all the same: a loss of NaN, of which the driving
    process warns, then says so.
    """
    test = store.get(private(subject, "test") if experiment.task.by_owners else public("test"))
    logits = predict(experiment, load(experiment, store, subject, weights), test["x"])
    found = {"accuracy": share_right(experiment, logits, test["y"]), "items": len(test["y"])}
    return found if bool(logits.isfinite().all()) else found | {"loss": math.nan}


def alignment_rows(experiment: Experiment, round_: int, items: int) -> Tensor:
    """This round's alignment sample: rows int64 (alignment_items,) of `items` public ones, the same for everybody."""
    size = min(items, experiment.setting("alignment_items"))
    return torch.from_numpy(experiment.rng(round_, "server", "alignment").choice(items, size, replace=False))


def agreed(tensors: Sequence[Tensor], how: str = "plain") -> Tensor:
    """What clients agree on, value by value, in float64 and back in float32. tensors: one of equal shape a client.

    how: `plain`, the mean; `trimmed`, the mean without the highest and the lowest fifth of the clients, one each at
    least; `median`, of an even number the mean of the middle two. Raises KdlibError where too few are left for that.
    """
    if how == "plain":
        return mean(tensors)
    if len(tensors) < LEAST:
        raise KdlibError(f"mean {how}: {len(tensors)} clients are left, too few to outvote one; allowed: {LEAST}")
    line = torch.stack([tensor.cpu() for tensor in tensors]).sort(0).values
    cut = (len(tensors) - 1) // 2 if how == "median" else max(1, len(tensors) // 5)
    return mean(list(line[cut : len(tensors) - cut])).to(tensors[0].device)


def mean(tensors: Sequence[Tensor], weights: Sequence[float] | None = None) -> Tensor:
    """The (weighted) mean over clients, summed in the given order in float64, back in the first one's dtype.

    It is made where the tensors are, on the CPU where their device has no float64.
    """
    weights = weights or [1.0] * len(tensors)
    tensors = [tensor.cpu() if tensor.device.type == "mps" else tensor for tensor in tensors]
    total = sum(weight * tensor.double() for weight, tensor in zip(weights, tensors, strict=True))
    assert isinstance(total, Tensor)  # of one client at least
    return (total / sum(weights)).to(tensors[0].dtype)
