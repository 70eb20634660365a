"""Alone: what a client reaches without any exchange, the baseline that question 2 needs.

    round    train     every client trains on its private data from its own weights
             evaluate  every client's model on the private test set

Objects in the Store: private/CLIENT/data  CLIENT/R/weights.
"""

from collections.abc import Iterator

from kdlib.cohort.attendance import last_counted
from kdlib.invoke.steps import Stage
from kdlib.invoke.strategy import SHORT, Chosen, Strategy, Work, of_client, personal_model
from kdlib.learning.client import load, save, start, test_accuracy, train_privately
from kdlib.settings.experiment import Count, Experiment
from kdlib.store.names import named
from kdlib.store.store import Store


class Alone(Experiment):
    """Settings of the baseline: every client trains on its own data; nothing is exchanged."""

    local_epochs: Count = 5


def workflow(experiment: Alone, chosen: Chosen) -> Iterator[Stage]:
    """The Stages of a run, in order."""
    for round_ in range(1, experiment.rounds + 1):
        yield Stage("train", experiment.client_names, round_)
        if experiment.evaluates(round_):
            yield Stage("evaluate", experiment.client_names, round_)


def train(experiment: Alone, store: Store, round_: int, client: str) -> dict[str, float]:
    """Local epochs by cross-entropy from where the client stood."""
    before = last_counted(store, round_ - 1, "train", client)
    if before == 0:
        model = start(experiment, client)
    else:
        model = load(experiment, store, client, named(client, before, "weights"))
    metrics = train_privately(experiment, store, round_, client, model, experiment.local_epochs, "train")
    save(store, named(client, round_, "weights"), model)
    return metrics


def evaluate(experiment: Alone, store: Store, round_: int, client: str) -> dict[str, float]:
    """The client's model on the private test set."""
    return test_accuracy(experiment, store, client, named(client, round_, "weights"))


STRATEGY = Strategy(
    name="alone", title="alone", settings=Alone, workflow=workflow,
    steps=(
        of_client(train, lambda e, n: Work(trained=n.client * e.local_epochs), leaves=personal_model),
        of_client(evaluate, lambda e, n: Work(predicted=1), needs="train", seconds=SHORT),
    ),
    personal=True, model=personal_model,
    baseline=True, colour="#029e73", line=":",
)
