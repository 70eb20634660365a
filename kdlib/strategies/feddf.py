"""FedDF: per architecture a student, taught by all clients of all architectures (PAPER: FedDF; Lin et al., 2020).

    round    train     the round's clients train on private data from their architecture's current weights,
                       and predict logits on this round's alignment sample while the model is in memory
             teach     one function averages the logits over ALL the round's clients, of every architecture
             distil    per architecture: a student starts at the clients' average and learns the teacher
             evaluate  every architecture's distilled model on the private test set; of texts, each client's own

Objects in the Store, R being a round of three digits:
    public/data  private/CLIENT/data  aggregator/validation  CLIENT/R/weights  CLIENT/R/samples
    CLIENT/R/logits  public/R/teacher  public/R/ARCHITECTURE

With `teachers: recomputed` there is no `teach`: as in the original, every student predicts the teachers' logits itself.
"""

from collections.abc import Iterator
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from kdlib.invoke.steps import Stage
from kdlib.invoke.strategy import (
    SHORT,
    Chosen,
    Sizes,
    Strategy,
    Work,
    of_aggregator,
    of_client,
    personal_model,
    server_model,
)
from kdlib.learning.client import agreed, alignment_rows, fit, save
from kdlib.learning.engine import Batches, KeepBest, Targets, accuracy, predict
from kdlib.learning.models import start
from kdlib.learning.received import aligned, expect_finite, read_logits, read_weights
from kdlib.settings.experiment import Batch, Count
from kdlib.settings.shared import Agreeing, Aligned, Validated
from kdlib.store.names import VALIDATION, named, public
from kdlib.store.store import Store
from kdlib.strategies.fedavg import FedAvg, averaged, called, current, evaluate, train_locally


class FedDF(FedAvg, Agreeing, Aligned, Validated):
    """Settings of FedDF (PAPER: FedDF, serverless): FedAvg per architecture, then distillation from all clients' mean.

    public_items: unlabelled here; alignment_items: how many of them teach in a round.
    distil_batches: of distil_batch images at most; score_every batches the student is scored on the validation data,
    validation_items of them at most; patience counts scores without a gain.
    teachers: `shared`, the clients' logits are predicted once a round; `recomputed`, the original's way, every student
    predicts them anew for every batch (the same numbers within 1e-5).
    kl: `reverse` brings back the artefact's fault (PAPER: The artefact's faults).
    """

    distil_batch: Batch = 128
    distil_batches: Count = 1000
    score_every: Count = 50
    patience: Count = 5
    teachers: Literal["shared", "recomputed"] = "shared"
    kl: Literal["forward", "reverse"] = "forward"


def workflow(experiment: FedDF, chosen: Chosen) -> Iterator[Stage]:
    """The Stages of a run, in order; who is called in a round may depend on the rounds before it."""
    for round_ in range(1, experiment.rounds + 1):
        yield Stage("train", chosen(round_), round_)
        if experiment.teachers == "shared":
            yield Stage("teach", ("server",), round_)
        yield Stage("distil", experiment.architectures, round_)
        if experiment.evaluates(round_):
            yield Stage("evaluate", experiment.evaluated, round_)


def train(experiment: FedDF, store: Store, round_: int, client: str) -> dict[str, float]:
    """w_c by local epochs from the architecture's current weights; then z_c = f(X_r; w_c), the client's logits."""
    model, metrics = train_locally(experiment, store, round_, client)
    if experiment.teachers == "shared":
        logits = predict(experiment, model, _alignment_sample(experiment, store, round_))
        store.put(named(client, round_, "logits"), {"logits": logits})
    return metrics


def teach(experiment: FedDF, store: Store, round_: int, server: str) -> dict[str, float]:
    """z = 1/C sum_c z_c: the teacher, over all this round's clients, of every architecture, by the setting `mean`."""
    clients = called(experiment, store, round_)
    items = aligned(experiment, store)
    logits = [read_logits(experiment, store, client, round_, items=items) for client in clients]
    store.put(named("public", round_, "teacher"), {"logits": agreed(logits, experiment.mean)})
    return {"clients": len(clients)}


def distil(experiment: FedDF, store: Store, round_: int, architecture: str) -> dict[str, float]:
    """The student starts at the average and learns the teacher; the weights best on the validation data win.

    w_0 = sum_c n_c w_c / sum_c n_c over this round's clients of the architecture
    min KL(softmax(z) || softmax(f(X_r; w))), batch mean, temperature 1, one Adam throughout
    """
    clients = called(experiment, store, round_, architecture)
    student = current(experiment, store, round_, architecture)
    if clients:  # else all of them were late, and it goes on from where it was
        student.load_state_dict(averaged(experiment, store, round_, clients))
    held = store.get(VALIDATION)
    keep = KeepBest(lambda model: accuracy(experiment, model, held["x"], held["y"]), experiment.patience,
                    every=experiment.score_every)
    x = _alignment_sample(experiment, store, round_)
    teacher: Targets
    if experiment.teachers == "shared":
        teacher = read_logits(experiment, store, "public", round_, "teacher", items=len(x))
    else:
        teacher = Recomputed(experiment, store, round_, x)
    order = experiment.entropy(round_, architecture, "distil/order")
    batches = Batches(experiment, x, teacher, experiment.distil_batch, order)
    loss = divergence if experiment.kl == "forward" else reversed_divergence
    metrics = fit(experiment, student, batches, loss, steps=experiment.distil_batches, keep=keep)
    save(store, named("public", round_, architecture), student)
    return metrics | {"clients": len(clients)}


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(softmax(teacher) || softmax(student)), summed over classes, mean over the batch; logits (N, classes)."""
    return F.kl_div(student.log_softmax(1), teacher.log_softmax(1), log_target=True, reduction="batchmean")


def reversed_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(softmax(student) || softmax(teacher)): what the artefact minimises, its arguments being swapped."""
    return divergence(teacher, student)


class Recomputed:
    """The teacher's logits for some rows of x, predicted by every client's model each time they are asked for."""

    def __init__(self, experiment: FedDF, store: Store, round_: int, x: Tensor) -> None:
        self.experiment, self.store, self.x = experiment, store, x
        self.models = {}
        for client in called(experiment, store, round_):
            name = named(client, round_, "weights")
            self.models[name] = start(experiment, client)
            self.models[name].load_state_dict(read_weights(experiment, store, client, name))

    def __getitem__(self, rows: Tensor) -> Tensor:
        logits = [expect_finite(predict(self.experiment, model, self.x[rows]), self.store, name)
                  for name, model in self.models.items()]
        return agreed(logits, self.experiment.mean)


def _distilling(experiment: FedDF, sizes: Sizes) -> Work:
    """Until the last batch, as nobody foresees a stop."""
    trained = experiment.distil_batches * experiment.distil_batch
    scores = experiment.distil_batches // experiment.score_every + 1
    teachers = experiment.clients_per_round if experiment.teachers == "recomputed" else 0
    return Work(trained=trained, predicted=trained * teachers + scores * sizes.validation)


STRATEGY = Strategy(
    name="feddf", title="FedDF", settings=FedDF, workflow=workflow,
    steps=(
        of_client(train, lambda e, n: Work(trained=n.client * e.local_epochs, predicted=n.aligned),
                  leaves=personal_model),
        of_aggregator(teach, lambda e, n: Work(gathered=n.aligned * e.clients_per_round), seconds=SHORT,
                      leaves=lambda r, server: named("public", r, "teacher")),
        of_aggregator(distil, _distilling, holds_all=lambda e: e.teachers == "recomputed", leaves=server_model),
        of_aggregator(evaluate, lambda e, n: Work(predicted=1), seconds=SHORT),
    ),
    selects="train", model=server_model,
    keeps=("teacher",), passing=("logits", "samples"),
    profiles={"laptop": {"distil_batches": 50, "score_every": 10, "patience": 3},
              "smoke": {"distil_batches": 20, "score_every": 5, "patience": 3}},
    probe=lambda e: {"distil_batches": e.score_every},
    colour="#de8f05",
)


def _alignment_sample(experiment: FedDF, store: Store, round_: int) -> Tensor:
    """The round's public items (alignment_items, *task.shape)."""
    items = store.get(public("data"))["x"]
    return items[alignment_rows(experiment, round_, len(items))]
