"""DS-FL: clients agree on sharpened predictions of unlabelled data (Itahara et al., 2021).

    round    train     every client trains a few epochs on its private data
             predict   every client predicts the classes' probabilities on this round's alignment sample
             sharpen   one function averages the probabilities over the clients and lowers their entropy
             distil    every client learns the sharpened average
             evaluate  every client's personal model on the private test set

Objects in the Store, R being a round of three digits:
    public/data  private/CLIENT/data  CLIENT/R/trained  CLIENT/R/probabilities  public/R/consensus  CLIENT/R/weights
"""

from collections.abc import Iterator
from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

import kdlib
from kdlib import Chosen, Stage, Store, Work, named

KIND = ("probabilities", "probabilities")  # of an object, and of the tensor in it
QUICK = 120.0  # seconds that a caller waits for a Step that does not train


class DSFL(kdlib.Aligned):
    """Settings of DS-FL: sharpened mean predictions of unlabelled public data are what clients exchange.

    local_epochs, distil_epochs: a round's two fits; temperature: of the sharpening, 1 leaves a softmax of the mean,
    less lowers its entropy.
    """

    local_epochs: Annotated[int, Field(ge=1)] = 5
    distil_epochs: Annotated[int, Field(ge=1)] = 5
    distil_batch: Annotated[int, Field(ge=2)] = 100
    temperature: Annotated[float, Field(gt=0, le=10)] = 0.1


def workflow(experiment: DSFL, chosen: Chosen) -> Iterator[Stage]:
    """The Stages of a run, in order; all clients take part in every round."""
    clients = experiment.client_names
    for round_ in range(1, experiment.rounds + 1):
        yield Stage("train", clients, round_)
        yield Stage("predict", clients, round_)
        yield Stage("sharpen", ("server",), round_)
        yield Stage("distil", clients, round_)
        yield Stage("evaluate", clients, round_)


def fused_workflow(experiment: DSFL, chosen: Chosen) -> Iterator[Stage]:
    """The same Steps with the same bytes, a client's from one consensus to the next in a single invocation."""
    clients = experiment.client_names
    yield Stage("train+predict", clients, 1)
    for round_ in range(1, experiment.rounds + 1):
        yield Stage("sharpen", ("server",), round_)
        last = round_ == experiment.rounds
        yield Stage("distil+evaluate" if last else "distil+evaluate>train+predict", clients, round_)


def train(experiment: DSFL, store: Store, round_: int, client: str) -> dict[str, float]:
    """w_c <- w_c - eta grad CE(f(x; w_c), y) over the private part: the client's model of the round before goes on."""
    newest = kdlib.last_counted(store, round_ - 1, "distil", client)
    if newest:
        model = kdlib.load_model(experiment, store, client, named(client, newest, "weights"))
    else:
        model = kdlib.start(experiment, client)
    metrics = kdlib.train_privately(experiment, store, round_, client, model, experiment.local_epochs, "train")
    kdlib.save_model(store, named(client, round_, "trained"), model)
    return metrics


def predict(experiment: DSFL, store: Store, round_: int, client: str) -> dict[str, float]:
    """t_c = softmax(f(X_r; w_c)): the client's probabilities on the round's alignment sample X_r."""
    model = kdlib.load_model(experiment, store, client, named(client, round_, "trained"))
    probabilities = kdlib.predict(experiment, model, _alignment_sample(experiment, store, round_)).softmax(1)
    store.put(named(client, round_, "probabilities"), {"probabilities": probabilities})
    return {"items": len(probabilities), "entropy": entropy(probabilities)}


def sharpen(experiment: DSFL, store: Store, round_: int, server: str) -> dict[str, float]:
    """t = softmax(1/C sum_c t_c / T): entropy reduction aggregation over all clients that were in time."""
    clients = kdlib.in_time(store, round_, "predict", experiment.client_names)
    average = kdlib.mean([kdlib.read_logits(experiment, store, client, round_, *KIND) for client in clients])
    sharpened = (average / experiment.temperature).softmax(1)
    store.put(named("public", round_, "consensus"), {"probabilities": sharpened})
    return {"clients": len(clients), "entropy": entropy(sharpened)}


def distil(experiment: DSFL, store: Store, round_: int, client: str) -> dict[str, float]:
    """min CE(f(X_r; w_c), t): the client learns the sharpened average."""
    model = kdlib.load_model(experiment, store, client, named(client, round_, "trained"))
    sample = _alignment_sample(experiment, store, round_)
    teacher = kdlib.read_logits(experiment, store, "public", round_, "consensus", "probabilities", len(sample))
    order = experiment.entropy(round_, client, "distil/order")
    batches = kdlib.Batches(experiment, sample, teacher, experiment.distil_batch, order)
    metrics = kdlib.fit(experiment, model, batches, F.cross_entropy, epochs=experiment.distil_epochs)
    kdlib.save_model(store, named(client, round_, "weights"), model)
    return metrics


def evaluate(experiment: DSFL, store: Store, round_: int, client: str) -> dict[str, float]:
    """The personal model on the private test set, or the client's own."""
    return kdlib.test_accuracy(experiment, store, client, named(client, round_, "weights"))


def entropy(probabilities: Tensor) -> float:
    """H = -sum_k p_k ln p_k in nats, mean over the items; probabilities (N, classes)."""
    return float(-(probabilities * probabilities.clamp_min(1e-30).log()).sum(1).mean())


STRATEGY = kdlib.Strategy(
    name="dsfl", title="DS-FL", settings=DSFL, workflow=workflow, fused=fused_workflow,
    steps=(
        kdlib.of_client(train, lambda e, n: Work(trained=n.client * e.local_epochs)),
        kdlib.of_client(predict, lambda e, n: Work(predicted=n.aligned), needs="train", seconds=QUICK),
        kdlib.of_aggregator(sharpen, lambda e, n: Work(gathered=n.aligned * e.clients), seconds=QUICK,
                            leaves=lambda r, server: named("public", r, "consensus")),
        kdlib.of_client(distil, lambda e, n: Work(trained=n.aligned * e.distil_epochs), needs="train",
                        leaves=kdlib.personal_model),
        kdlib.of_client(evaluate, lambda e, n: Work(predicted=1), needs="distil", seconds=QUICK),
    ),
    personal=True, model=kdlib.personal_model,
    metrics=("entropy",), keeps=("consensus",), passing=("trained", "probabilities"),
    profiles={"smoke": {"distil_epochs": 2}},
)


def _alignment_sample(experiment: DSFL, store: Store, round_: int) -> Tensor:
    """The round's public items (alignment_items, *task.shape), in the same order for every client."""
    items = store.get(kdlib.public("data"))["x"]
    return items[kdlib.alignment_rows(experiment, round_, len(items))]
