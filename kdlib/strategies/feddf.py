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

import torch.nn.functional as F
from torch import Tensor

from kdlib.cohort.history import History
from kdlib.invoke.steps import Stage
from kdlib.learning import client as c
from kdlib.learning.engine import Batches, KeepBest, accuracy, predict
from kdlib.settings.experiment import FedDF
from kdlib.store.store import Store
from kdlib.strategies.fedavg import NEEDS, averaged, called, current, evaluate, train_locally


def workflow(experiment: FedDF, history: History):
    """The Stages of a run, in order; who is called in a round may depend on the rounds before it."""
    for round_ in range(1, experiment.rounds + 1):
        yield Stage("train", history.chosen(round_), round_)
        if experiment.teachers == "shared":
            yield Stage("teach", ("server",), round_)
        yield Stage("distil", experiment.architectures, round_)
        yield Stage("evaluate", experiment.evaluated, round_)


def train(experiment: FedDF, store: Store, round_: int, client: str) -> dict[str, float]:
    """w_c by local epochs from the architecture's current weights; then z_c = f(X_r; w_c), the client's logits."""
    model, metrics = train_locally(experiment, store, round_, client)
    if experiment.teachers == "shared":
        logits = predict(experiment, model, _alignment_sample(experiment, store, round_))
        store.put(f"{client}/{round_:03}/logits", {"logits": logits})
    return metrics


def teach(experiment: FedDF, store: Store, round_: int, server: str) -> dict[str, float]:
    """z = 1/C sum_c z_c: the teacher, the mean logits of all this round's clients, of every architecture."""
    clients = called(experiment, store, round_)
    logits = [store.get(f"{client}/{round_:03}/logits")["logits"] for client in clients]
    store.put(f"public/{round_:03}/teacher", {"logits": c.mean(logits)})
    return {"clients": len(clients)}


def distil(experiment: FedDF, store: Store, round_: int, architecture: str) -> dict[str, float]:
    """The student starts at the average and learns the teacher; the weights best on the validation data win.

    w_0 = sum_c n_c w_c / sum_c n_c over this round's clients of the architecture
    min KL(softmax(z) || softmax(f(X_r; w))), batch mean, temperature 1, one Adam throughout
    """
    clients = called(experiment, store, round_, architecture)
    student = current(experiment, store, round_, architecture)
    if clients:  # else all of them were late, and it goes on from where it was
        student.load_state_dict(averaged(store, round_, clients))
    held = store.get("aggregator/validation")
    keep = KeepBest(lambda model: accuracy(experiment, model, held["x"], held["y"]), experiment.patience,
                    every=experiment.score_every)
    x = _alignment_sample(experiment, store, round_)
    if experiment.teachers == "shared":
        teacher = store.get(f"public/{round_:03}/teacher")["logits"]
    else:
        teacher = Recomputed(experiment, store, round_, x)
    batches = Batches(x, teacher, experiment.distil_batch,
                        experiment.entropy(round_, architecture, "distil/order"))
    loss = divergence if experiment.kl == "forward" else reversed_divergence
    metrics = c.train(experiment, student, batches, loss, steps=experiment.distil_batches, keep=keep)
    c.save(store, f"public/{round_:03}/{architecture}", student)
    return metrics | {"clients": len(clients)}


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(softmax(teacher) || softmax(student)), summed over classes, mean over the batch; logits (N, classes)."""
    return F.kl_div(student.log_softmax(1), teacher.log_softmax(1), log_target=True, reduction="batchmean")


def reversed_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(softmax(student) || softmax(teacher)): what the artefact minimises, its arguments being swapped."""
    return divergence(teacher, student)


class Recomputed:
    """The teacher's logits for some rows of x, predicted by every client's model each time they are asked for."""

    def __init__(self, experiment: FedDF, store: Store, round_: int, x: Tensor):
        self.experiment, self.x = experiment, x
        self.models = [c.load(experiment, store, client, f"{client}/{round_:03}/weights")
                       for client in called(experiment, store, round_)]

    def __getitem__(self, rows: Tensor) -> Tensor:
        return c.mean([predict(self.experiment, model, self.x[rows]) for model in self.models])


__all__ = ["HANDLERS", "NEEDS", "workflow"]
HANDLERS = {"train": train, "teach": teach, "distil": distil, "evaluate": evaluate}


def _alignment_sample(experiment, store, round_) -> Tensor:
    """The round's public images, uint8 (alignment_items, H, W[, C])."""
    public = store.get("public/data")["x"]
    return public[c.alignment(experiment, round_, len(public))]
