"""What a client does, whatever the strategy: load, train, predict logits, evaluate."""

import contextlib
import functools
import signal
import threading
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from kdlib.errors import KdlibError
from kdlib.learning.engine import Batches, KeepBest, Loss, accuracy, inputs, keep_freed_memory
from kdlib.learning.models import Model, build, build_lstm
from kdlib.machine import has_bf16
from kdlib.settings.experiment import Experiment
from kdlib.store.store import Store


def start(experiment: Experiment, subject: str) -> Model:
    """The random start of the subject's architecture: the same for all its clients, whatever the strategy.

    Raises KdlibError where this CPU cannot carry it out.
    """
    architecture = experiment.architecture_of(subject)
    generator = torch.Generator().manual_seed(experiment.entropy(0, architecture, "start"))
    with torch.random.fork_rng(devices=[]):  # PyTorch's own start, at once overwritten, draws from the Step's numbers
        if experiment.task.by_roles:
            if experiment.precision == "bf16" and not has_bf16():  # PyTorch has no LSTM in bf16 without
                raise KdlibError("precision bf16: this CPU has none in hardware, which LSTMs need; allowed here: fp32")
            return build_lstm(architecture, experiment.classes, experiment.width, generator)
        return build(architecture, experiment.task.image, experiment.classes, experiment.width,
                     experiment.batch_norm_momentum, generator)


@functools.lru_cache(maxsize=256)
def work(experiment: Experiment, architecture: str) -> int:
    """Multiply-accumulates of the architecture's forward pass on one item."""
    from torch.utils.flop_counter import FlopCounterMode  # seconds of imports, which most runs need not wait for

    model = start(experiment, architecture).eval().to("meta")  # shapes alone are followed, nothing is computed
    with FlopCounterMode(display=False) as counter:
        model(inputs(torch.zeros(1, *experiment.task.shape, dtype=torch.uint8, device="meta")))
    return counter.get_total_flops() // 2  # two operations are one multiply-accumulate


def load(experiment: Experiment, store: Store, subject: str, name: str) -> Model:
    """The subject's architecture with the weights stored under `name`."""
    model = start(experiment, subject)
    model.load_state_dict(store.get(name))
    return model


def save(store: Store, name: str, model: Model) -> None:
    """Store the model's weights, batch-norm statistics among them."""
    store.put(name, model.state_dict())


def train(experiment: Experiment, model: Model, batches: Batches, loss: Loss, epochs: int | None = None,
          steps: int | None = None, keep: KeepBest | None = None) -> dict[str, float]:
    """Train in place for `epochs`, or for `steps` batches over as many epochs as they need.

    With `keep` the model ends with the best weights seen. Dropout draws from torch's global generator, which the
    caller has seeded for this Step. Returns the mean loss and how many batches and items it saw.
    """
    with interrupts_wait():  # Lightning takes seconds to import; a Step that only predicts needs none
        from kdlib.learning.training import Training, fit

    keep_freed_memory()
    module = Training(model, loss, experiment.learning_rate)
    fit(module, batches, experiment.precision, experiment.device, epochs, steps, keep)
    if keep:
        model.load_state_dict(keep.weights)
    metrics = {"loss": float(module.total / module.batches), "batches": module.batches, "items": len(batches.x)}
    return metrics | ({"scores": keep.scores, "best": keep.best} if keep else {})


@contextlib.contextmanager
def interrupts_wait() -> Iterator[None]:
    """An interrupt that comes inside is raised at the end: some imports swallow it, and the run would go on."""
    if threading.current_thread() is not threading.main_thread():  # only that one hears of interrupts
        yield
        return
    came = []
    before = signal.signal(signal.SIGINT, lambda *_: came.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before or signal.default_int_handler)
    if came and before is not signal.SIG_IGN:
        raise KeyboardInterrupt


def train_privately(experiment: Experiment, store: Store, round_: int, client: str, model: Model, epochs: int,
                    step: str) -> dict[str, float]:
    """A client's epochs on its own private part: cross-entropy, Adam, the experiment's batch."""
    own = store.get(f"private/{client}/data")
    batches = Batches(own["x"], own["y"], experiment.batch, experiment.entropy(round_, client, f"{step}/order"))
    return train(experiment, model, batches, F.cross_entropy, epochs=epochs)


def evaluate(experiment: Experiment, store: Store, subject: str, weights: str) -> dict[str, float]:
    """Accuracy of stored weights on the private test set, or where it is a client's own, on the subject's."""
    test = store.get(f"private/{subject}/test" if experiment.task.by_roles else "public/test")
    return {"accuracy": accuracy(experiment, load(experiment, store, subject, weights), test["x"], test["y"]),
            "items": len(test["y"])}


def alignment(experiment: Experiment, round_: int, items: int) -> Tensor:
    """This round's alignment sample: rows int64 (alignment_items,) of `items` public ones, the same for everybody."""
    size = min(items, experiment.alignment_items)
    return torch.from_numpy(experiment.rng(round_, "server", "alignment").choice(items, size, replace=False))


def mean(tensors: list[Tensor], weights: list[float] | None = None) -> Tensor:
    """The (weighted) mean over clients, summed in the given order in float64, back in the first one's dtype."""
    weights = weights or [1.0] * len(tensors)
    total = sum(weight * tensor.double() for weight, tensor in zip(weights, tensors, strict=True))
    return (total / sum(weights)).to(tensors[0].dtype)
