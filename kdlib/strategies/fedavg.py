"""FedAvg per architecture: the half of FedDF without a teacher, and the baseline that question 2 needs.

    round    train     the round's clients train on private data from their architecture's current weights
             average   per architecture, the clients' weights are averaged by their number of samples
             evaluate  every architecture's averaged model on the private test set; of texts, each client's own

Objects in the Store: private/CLIENT/data  CLIENT/R/weights  public/R/ARCHITECTURE (McMahan et al., 2017).
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from kdlib.cohort.attendance import in_time
from kdlib.cohort.selection import chosen_of
from kdlib.invoke.steps import Stage
from kdlib.invoke.strategy import (
    SHORT,
    Chosen,
    Strategy,
    Work,
    of_aggregator,
    of_client,
    personal_model,
    server_model,
)
from kdlib.learning.client import load, mean, save, start, test_accuracy, train_privately
from kdlib.learning.received import partitioned, read_samples, read_weights
from kdlib.settings.shared import Selecting
from kdlib.store.names import named
from kdlib.store.store import Store


class FedAvg(Selecting):
    """Settings of FedAvg: clients of one architecture share parameters, architectures share nothing."""


def workflow(experiment: FedAvg, chosen: Chosen) -> Iterator[Stage]:
    """The Stages of a run, in order; who is called in a round may depend on the rounds before it."""
    for round_ in range(1, experiment.rounds + 1):
        yield Stage("train", chosen(round_), round_)
        yield Stage("average", experiment.architectures, round_)
        if experiment.evaluates(round_):
            yield Stage("evaluate", experiment.evaluated, round_)


def train(experiment: FedAvg, store: Store, round_: int, client: str) -> dict[str, float]:
    """Local epochs by cross-entropy from the architecture's current weights."""
    _, metrics = train_locally(experiment, store, round_, client)
    return metrics


def average(experiment: FedAvg, store: Store, round_: int, architecture: str) -> dict[str, float]:
    """w = sum_c n_c w_c / sum_c n_c over this round's clients of the architecture."""
    clients = called(experiment, store, round_, architecture)
    if clients:
        weights = averaged(experiment, store, round_, clients)
    else:  # all of them were late: the architecture stays as it is
        weights = current(experiment, store, round_, architecture).state_dict()
    store.put(named("public", round_, architecture), weights)
    return {"clients": len(clients)}


def evaluate(experiment: FedAvg, store: Store, round_: int, subject: str) -> dict[str, float]:
    """The server model of an architecture, or of a client's, on the private test set, or on the client's own."""
    return test_accuracy(experiment, store, subject, named("public", round_, experiment.architecture_of(subject)))


def train_locally(experiment: FedAvg, store: Store, round_: int, client: str) -> tuple[nn.Module, dict[str, float]]:
    """A client's part of a round; the trained model is returned and stored with its number of samples."""
    model = current(experiment, store, round_, experiment.architecture_of(client))
    metrics = train_privately(experiment, store, round_, client, model, experiment.local_epochs, "train")
    save(store, named(client, round_, "weights"), model)
    store.put(named(client, round_, "samples"), {"samples": torch.tensor(metrics["items"])})
    return model, metrics


def current(experiment: FedAvg, store: Store, round_: int, architecture: str) -> nn.Module:
    """The architecture's model that the round's clients begin with: random in the first round."""
    if round_ == 1:
        return start(experiment, architecture)
    return load(experiment, store, architecture, named("public", round_ - 1, architecture))


def called(experiment: FedAvg, store: Store, round_: int, architecture: str | None = None) -> list[str]:
    """This round's clients that were in time, of one architecture or of all."""
    return [name for name in in_time(store, round_, "train", chosen_of(experiment, store, round_))
            if architecture in (None, experiment.architecture_of(name))]


def averaged(experiment: FedAvg, store: Store, round_: int, clients: list[str]) -> dict[str, Tensor]:
    """The clients' weights, batch-norm statistics among them, averaged by their number of samples. Raises Damaged."""
    weights = [read_weights(experiment, store, client, named(client, round_, "weights")) for client in clients]
    sizes = partitioned(store)
    samples = [read_samples(store, client, round_, sizes) for client in clients]
    return {name: mean([of_client[name] for of_client in weights], samples) for name in weights[0]}


STRATEGY = Strategy(
    name="fedavg", title="FedAvg", settings=FedAvg, workflow=workflow,
    steps=(
        of_client(train, lambda e, n: Work(trained=n.client * e.local_epochs), leaves=personal_model),
        of_aggregator(average, lambda e, n: Work(gathered=e.clients_per_round), seconds=SHORT, leaves=server_model),
        of_aggregator(evaluate, lambda e, n: Work(predicted=1), seconds=SHORT),
    ),
    selects="train", model=server_model, passing=("samples",),
    baseline=True, colour="#d55e00", line="-.",
)
