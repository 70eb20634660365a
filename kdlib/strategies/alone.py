"""Alone: what a client reaches without any exchange, the baseline that question 2 needs.

    round    train     every client trains on its private data from its own weights
             evaluate  every client's model on the private test set

Objects in the Store: private/CLIENT/data  CLIENT/R/weights.
"""

from kdlib.cohort.attendance import last_counted
from kdlib.cohort.history import History
from kdlib.invoke.steps import Stage
from kdlib.learning import client as c
from kdlib.settings.experiment import Alone
from kdlib.store.store import Store


def workflow(experiment: Alone, history: History):
    """The Stages of a run, in order."""
    for round_ in range(1, experiment.rounds + 1):
        yield Stage("train", experiment.client_names, round_)
        yield Stage("evaluate", experiment.client_names, round_)


def train(experiment: Alone, store: Store, round_: int, client: str) -> dict[str, float]:
    """Local epochs by cross-entropy from where the client stood."""
    before = last_counted(store, round_ - 1, "train", client)
    if before == 0:
        model = c.start(experiment, client)
    else:
        model = c.load(experiment, store, client, f"{client}/{before:03}/weights")
    metrics = c.train_privately(experiment, store, round_, client, model, experiment.local_epochs, "train")
    c.save(store, f"{client}/{round_:03}/weights", model)
    return metrics


def evaluate(experiment: Alone, store: Store, round_: int, client: str) -> dict[str, float]:
    """The client's model on the private test set."""
    return c.evaluate(experiment, store, client, f"{client}/{round_:03}/weights")


NEEDS = {"evaluate": "train"}  # a client that missed the second is not called for the first
HANDLERS = {"train": train, "evaluate": evaluate}
