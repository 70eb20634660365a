"""FedAvg per architecture: the half of FedDF without a teacher, and the baseline that question 2 needs.

    round    train     the round's clients train on private data from their architecture's current weights
             average   per architecture, the clients' weights are averaged by their number of samples
             evaluate  every architecture's averaged model on the private test set; of texts, each client's own

Objects in the Store: private/CLIENT/data  CLIENT/R/weights  public/R/ARCHITECTURE (McMahan et al., 2017).
"""

import torch
from torch import Tensor

from kdlib.cohort.attendance import in_time
from kdlib.cohort.history import History
from kdlib.cohort.selection import chosen
from kdlib.invoke.steps import Stage
from kdlib.learning import client as c
from kdlib.learning.models import Model
from kdlib.settings.experiment import FedAvg
from kdlib.store.store import Store


def workflow(experiment: FedAvg, history: History):
    """The Stages of a run, in order; who is called in a round may depend on the rounds before it."""
    for round_ in range(1, experiment.rounds + 1):
        yield Stage("train", history.chosen(round_), round_)
        yield Stage("average", experiment.architectures, round_)
        yield Stage("evaluate", experiment.evaluated, round_)


def train(experiment: FedAvg, store: Store, round_: int, client: str) -> dict[str, float]:
    """Local epochs by cross-entropy from the architecture's current weights."""
    _, metrics = train_locally(experiment, store, round_, client)
    return metrics


def average(experiment: FedAvg, store: Store, round_: int, architecture: str) -> dict[str, float]:
    """w = sum_c n_c w_c / sum_c n_c over this round's clients of the architecture."""
    clients = called(experiment, store, round_, architecture)
    if clients:
        weights = averaged(store, round_, clients)
    else:  # all of them were late: the architecture stays as it is
        weights = current(experiment, store, round_, architecture).state_dict()
    store.put(f"public/{round_:03}/{architecture}", weights)
    return {"clients": len(clients)}


def evaluate(experiment: FedAvg, store: Store, round_: int, subject: str) -> dict[str, float]:
    """The server model of an architecture, or of a client's, on the private test set, or on the client's own."""
    return c.evaluate(experiment, store, subject, f"public/{round_:03}/{experiment.architecture_of(subject)}")


NEEDS = {}  # no client's Step rests on another of its own in the same round
HANDLERS = {"train": train, "average": average, "evaluate": evaluate}


def train_locally(experiment: FedAvg, store: Store, round_: int, client: str) -> tuple[Model, dict[str, float]]:
    """A client's part of a round; the trained model is returned and stored with its number of samples."""
    model = current(experiment, store, round_, experiment.architecture_of(client))
    metrics = c.train_privately(experiment, store, round_, client, model, experiment.local_epochs, "train")
    c.save(store, f"{client}/{round_:03}/weights", model)
    store.put(f"{client}/{round_:03}/samples", {"samples": torch.tensor(metrics["items"])})
    return model, metrics


def current(experiment: FedAvg, store: Store, round_: int, architecture: str) -> Model:
    """The architecture's model that the round's clients begin with: random in the first round."""
    if round_ == 1:
        return c.start(experiment, architecture)
    return c.load(experiment, store, architecture, f"public/{round_ - 1:03}/{architecture}")


def called(experiment: FedAvg, store: Store, round_: int, architecture: str | None = None) -> list[str]:
    """This round's clients that were in time, of one architecture or of all."""
    return [name for name in in_time(store, round_, "train", chosen(experiment, store, round_))
            if architecture in (None, experiment.architecture_of(name))]


def averaged(store: Store, round_: int, clients: list[str]) -> dict[str, Tensor]:
    """The clients' weights, batch-norm statistics among them, averaged by their number of samples."""
    weights = [store.get(f"{client}/{round_:03}/weights") for client in clients]
    samples = [int(store.get(f"{client}/{round_:03}/samples")["samples"]) for client in clients]
    return {name: c.mean([of_client[name] for of_client in weights], samples) for name in weights[0]}
