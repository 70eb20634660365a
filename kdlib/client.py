"""What a client does, whatever the strategy: load, train, predict logits, evaluate. Training is Lightning's."""

import logging
import math
import signal
import warnings
from collections.abc import Callable, Iterator

import lightning
import torch
import torch.nn.functional as F
import torchmetrics.functional
from torch import Tensor

from kdlib.experiment import Experiment
from kdlib.models import CNN, build
from kdlib.store import Store

# Lightning's advice on loggers, workers and devices is for long trainings, not for a Step of a second.
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module="lightning.*")

PREDICT_BATCH = 128  # activations of more images than this no longer fit the cache of a small core

Loss = Callable[[Tensor, Tensor], Tensor]


def start(experiment: Experiment, subject: str) -> CNN:
    """The random start of the subject's architecture: the same for all its clients, whatever the strategy."""
    architecture = experiment.architecture_of(subject)
    generator = torch.Generator().manual_seed(experiment.entropy(0, architecture, "start"))
    with torch.random.fork_rng(devices=[]):  # PyTorch's own start, at once overwritten, draws from the Step's numbers
        return build(architecture, experiment.task.image, experiment.classes, experiment.width,
                     experiment.batch_norm_momentum, generator)


def load(experiment: Experiment, store: Store, subject: str, name: str) -> CNN:
    """The subject's architecture with the weights stored under `name`."""
    model = start(experiment, subject)
    model.load_state_dict(store.get(name))
    return model


def save(store: Store, name: str, model: CNN) -> None:
    """Store the model's weights, batch-norm statistics among them."""
    store.put(name, model.state_dict())


def images(x: Tensor) -> Tensor:
    """uint8 (N, H, W[, C]) -> float32 (N, C, H, W) in 0-1, channels last in memory (PAPER: pixels/255)."""
    x = x.unsqueeze(-1) if x.ndim == 3 else x
    return x.permute(0, 3, 1, 2).float().div_(255)


class Batches:
    """Seeded epochs over uint8 images and their targets, turned into batches by index.

    x: uint8 (N, H, W[, C]); target: (N, ...); size: of a batch; seed: of the order, drawn anew in each epoch.
    The last batch is smaller; one of a single item, of which batch norm can make nothing, is left out.
    """

    def __init__(self, x: Tensor, target: Tensor, size: int, seed: int):
        self.x, self.target, self.size = x, target, size
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return max(1, math.ceil(len(self.x) / self.size) - (len(self.x) % self.size == 1))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.x), generator=self.generator)
        for rows in order.split(self.size)[: len(self)]:
            yield images(self.x[rows]), self.target[rows]


class KeepBest(lightning.Callback):
    """Score the model while it trains, keep the best weights, stop after `patience` scores without a gain.

    score: model -> float, higher is better; called at every epoch's end, or before the first batch and after
    every `every` batches. A gain is more than `min_delta` over the best so far.
    """

    def __init__(self, score: Callable[[CNN], float], patience: int, min_delta: float = 0.0, every: int | None = None):
        self.score, self.patience, self.min_delta, self.every = score, patience, min_delta, every
        self.best, self.weights, self.scores, self.waited = -math.inf, None, 0, 0

    def on_train_start(self, trainer, module):
        if self.every:
            self._look(trainer, module.model)

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if self.every and trainer.global_step % self.every == 0:
            self._look(trainer, module.model)

    def on_train_epoch_end(self, trainer, module):
        if not self.every:
            self._look(trainer, module.model)

    def _look(self, trainer, model):
        score = self.score(model)
        self.scores += 1
        if score > self.best + self.min_delta or self.weights is None:
            self.best, self.waited = score, 0
            self.weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        else:
            self.waited += 1
            trainer.should_stop = trainer.should_stop or self.waited >= self.patience


class Training(lightning.LightningModule):
    """A model, a loss and Adam: one optimiser for one Step."""

    def __init__(self, model: CNN, loss: Loss, learning_rate: float):
        super().__init__()
        self.model, self.loss, self.learning_rate = model, loss, learning_rate
        self.total, self.batches = 0.0, 0

    def training_step(self, batch, _):
        x, target = batch
        loss = self.loss(self.model(x), target) + self.model.penalty()
        self.total, self.batches = self.total + loss.detach(), self.batches + 1
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.model.parameters(), lr=self.learning_rate, eps=1e-7, fused=True)


def train(experiment: Experiment, model: CNN, batches: Batches, loss: Loss, epochs: int | None = None,
          steps: int | None = None, keep: KeepBest | None = None) -> dict[str, float]:
    """Train in place for `epochs`, or for `steps` batches over as many epochs as they need.

    With `keep` the model ends with the best weights seen. Dropout draws from torch's global generator, which the
    caller has seeded for this Step. Returns the mean loss and how many batches and items it saw.
    """
    module = Training(model, loss, experiment.learning_rate)
    trainer = lightning.Trainer(
        accelerator=experiment.device, devices=1, precision="32-true",
        max_epochs=epochs or -1, max_steps=steps or -1, callbacks=[keep] if keep else None,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, use_distributed_sampler=False,
    )
    on_interrupt = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(module, train_dataloaders=batches)
    except SystemExit as stop:  # Lightning makes exit(1) of an interrupt, and has the process ignore the next one
        signal.signal(signal.SIGINT, on_interrupt)
        raise KeyboardInterrupt from stop
    if keep:
        model.load_state_dict(keep.weights)
    metrics = {"loss": float(module.total / module.batches), "batches": module.batches, "items": len(batches.x)}
    return metrics | ({"scores": keep.scores, "best": keep.best} if keep else {})


@torch.inference_mode()
def predict(model: CNN, x: Tensor) -> Tensor:
    """Logits float32 (N, classes) of uint8 images (N, H, W[, C]), in evaluation mode."""
    training = model.training
    model.eval()
    logits = torch.cat([model(images(part)) for part in x.split(PREDICT_BATCH)])
    model.train(training)
    return logits


def accuracy(model: CNN, x: Tensor, y: Tensor) -> float:
    """Top-1 accuracy, 0-1, over all the model's outputs."""
    logits = predict(model, x)
    return float(torchmetrics.functional.accuracy(logits, y, task="multiclass", num_classes=logits.shape[1],
                                                  average="micro"))


def cross_entropy(model: CNN, x: Tensor, y: Tensor) -> float:
    """Mean cross-entropy in nats, without the penalty."""
    return float(F.cross_entropy(predict(model, x), y))


def train_privately(experiment: Experiment, store: Store, round: int, client: str, model: CNN, epochs: int,
                    step: str) -> dict[str, float]:
    """A client's epochs on its own private part: cross-entropy, Adam, the experiment's batch."""
    own = store.get(f"{client}/data")
    batches = Batches(own["x"], own["y"], experiment.batch, experiment.entropy(round, client, f"{step}/order"))
    return train(experiment, model, batches, F.cross_entropy, epochs=epochs)


def evaluate(experiment: Experiment, store: Store, subject: str, weights: str) -> dict[str, float]:
    """Accuracy of the subject's stored weights on the private test set."""
    test = store.get("public/test")
    return {"accuracy": accuracy(load(experiment, store, subject, weights), test["x"], test["y"]),
            "items": len(test["y"])}


def alignment(experiment: Experiment, round: int, items: int) -> Tensor:
    """This round's alignment sample: rows int64 (alignment_items,) of `items` public ones, the same for everybody."""
    size = min(items, experiment.alignment_items)
    return torch.from_numpy(experiment.rng(round, "server", "alignment").choice(items, size, replace=False))


def mean(tensors: list[Tensor], weights: list[float] | None = None) -> Tensor:
    """The (weighted) mean over clients, summed in the given order in float64, back in the first one's dtype."""
    weights = weights or [1.0] * len(tensors)
    total = sum(weight * tensor.double() for weight, tensor in zip(weights, tensors, strict=True))
    return (total / sum(weights)).to(tensors[0].dtype)
