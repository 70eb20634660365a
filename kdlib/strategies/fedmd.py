"""FedMD: clients agree on logits (PAPER: FedMD, serverless; Li and Wang, 2019).

    once     pretrain     every architecture trains on the labelled public data until it converges
             transfer     every client fine-tunes on its private data until it converges
    round    communicate  every client predicts logits on this round's alignment sample
             aggregate    one function averages the logits over the clients
             digest       every client fits its logits to the average
             revisit      every client trains a few epochs on its private data
             evaluate     every client's personal model on the private test set

Objects in the Store, R being a round of three digits:
    public/data  public/000/ARCHITECTURE  private/CLIENT/data  CLIENT/R/logits  public/R/consensus
    CLIENT/R/digested  CLIENT/R/weights
"""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdlib.cohort.attendance import in_time, last_counted
from kdlib.errors import KdlibError
from kdlib.invoke.steps import Stage
from kdlib.invoke.strategy import (
    SHORT,
    Chosen,
    Strategy,
    Work,
    of_aggregator,
    of_client,
    of_worker,
    personal_model,
)
from kdlib.learning.client import agreed, alignment_rows, fit, load, save, start, test_accuracy, train_privately
from kdlib.learning.engine import Batches, KeepBest, cross_entropy, predict
from kdlib.learning.received import aligned, read_logits
from kdlib.settings.experiment import Batch, Count
from kdlib.settings.shared import Agreeing, Aligned
from kdlib.settings.task import TextTask
from kdlib.store.names import named, private, public
from kdlib.store.store import Store

SMALLEST_TO_STOP = 50  # items of a client; below it a fifth is too few to stop by (PAPER: Tasks)


class FedMD(Agreeing, Aligned):
    """Settings of FedMD (PAPER: FedMD, serverless).

    pretrain_*: public transfer learning; transfer_*: private transfer learning. patience counts epochs without a gain
    of min_delta in validation loss. digest_*, revisit_epochs: a round's two fits.
    transfer, alignment: `lost` and `permuted` bring back the artefact's faults (PAPER: The artefact's faults).
    """

    pretrain_epochs: Count = 20
    pretrain_batch: Batch = 128
    pretrain_patience: Count = 8
    transfer_epochs: Count = 25
    transfer_patience: Count = 10
    min_delta: Annotated[float, Field(ge=0)] = 1e-3
    digest_epochs: Count = 1
    digest_batch: Batch = 256
    revisit_epochs: Count = 2
    transfer: Literal["used", "lost"] = "used"
    alignment: Literal["aligned", "permuted"] = "aligned"

    labelled_public: ClassVar[bool] = True


def workflow(experiment: FedMD, chosen: Chosen) -> Iterator[Stage]:
    """The Stages of a run, in order; all clients take part in every round."""
    clients = experiment.client_names
    yield Stage("pretrain", experiment.architectures)
    yield Stage("transfer", clients)
    yield Stage("evaluate", clients)
    for round_ in range(1, experiment.rounds + 1):
        yield Stage("communicate", clients, round_)
        yield Stage("aggregate", ("server",), round_)
        yield Stage("digest", clients, round_)
        yield Stage("revisit", clients, round_)
        if experiment.evaluates(round_):
            yield Stage("evaluate", clients, round_)


def fused_workflow(experiment: FedMD, chosen: Chosen) -> Iterator[Stage]:
    """The same Steps with the same bytes, a client's from one consensus to the next in a single invocation."""
    clients = experiment.client_names
    yield Stage("pretrain", experiment.architectures)
    yield Stage("transfer+evaluate>communicate", clients)
    for round_ in range(1, experiment.rounds + 1):
        yield Stage("aggregate", ("server",), round_)
        own = "digest+revisit+evaluate" if experiment.evaluates(round_) else "digest+revisit"
        yield Stage(own if round_ == experiment.rounds else f"{own}>communicate", clients, round_)


def pretrain(experiment: FedMD, store: Store, round_: int, architecture: str) -> dict[str, float]:
    """Public transfer learning, once per architecture: cross-entropy on the labelled public data.

    Stops on a fixed, seeded fifth of them, of a text the last; the best weights are kept.
    """
    data = store.get(public("data"))
    model = start(experiment, architecture)
    metrics = _converge(experiment, model, data, "public", "pretrain", experiment.pretrain_batch,
                        experiment.pretrain_epochs, experiment.pretrain_patience,
                        order=experiment.entropy(round_, architecture, "pretrain/order"))
    save(store, named("public", 0, architecture), model)
    return metrics


def transfer(experiment: FedMD, store: Store, round_: int, client: str) -> dict[str, float]:
    """Private transfer learning from the architecture's public weights; stops on a fixed fifth of the client's part."""
    own = store.get(private(client, "data"))
    order = experiment.entropy(round_, client, "transfer/order")
    if experiment.transfer == "lost":  # the artefact: nobody ever reads what both transfer phases learnt
        model = start(experiment, client)
    else:
        model = load(experiment, store, client, named("public", 0, experiment.architecture_of(client)))
    untouched = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if len(own["y"]) < SMALLEST_TO_STOP:
        batches = Batches(experiment, own["x"], own["y"], experiment.batch, order)
        metrics = fit(experiment, model, batches, F.cross_entropy, epochs=experiment.transfer_epochs)
    else:
        metrics = _converge(experiment, model, own, client, "transfer", experiment.batch,
                            experiment.transfer_epochs, experiment.transfer_patience, order)
    if experiment.transfer == "lost":
        model.load_state_dict(untouched)
    save(store, named(client, 0, "weights"), model)
    return metrics


def communicate(experiment: FedMD, store: Store, round_: int, client: str) -> dict[str, float]:
    """z_c = f_c(X_r): the client's logits on the round's alignment sample X_r."""
    model = _own_model(experiment, store, round_, client)
    logits = predict(experiment, model, _alignment_sample(experiment, store, round_, client, "communicate"))
    store.put(named(client, round_, "logits"), {"logits": logits})
    return {"items": len(logits)}


def aggregate(experiment: FedMD, store: Store, round_: int, server: str) -> dict[str, float]:
    """z = 1/C sum_c z_c: the consensus over all clients that were in time, by the experiment's `mean`."""
    clients = in_time(store, round_, "communicate", experiment.client_names)
    items = aligned(experiment, store)
    logits = [read_logits(experiment, store, client, round_, items=items) for client in clients]
    store.put(named("public", round_, "consensus"), {"logits": agreed(logits, experiment.mean)})
    return {"clients": len(logits)}


def digest(experiment: FedMD, store: Store, round_: int, client: str) -> dict[str, float]:
    """min mean |f_c(X_r) - z|: the client fits its logits to the consensus, with a new Adam."""
    model = _own_model(experiment, store, round_, client)
    x = _alignment_sample(experiment, store, round_, client, "digest")
    consensus = read_logits(experiment, store, "public", round_, "consensus", items=len(x))
    order = experiment.entropy(round_, client, "digest/order")
    batches = Batches(experiment, x, consensus, experiment.digest_batch, order)
    metrics = fit(experiment, model, batches, F.l1_loss, epochs=experiment.digest_epochs)
    save(store, named(client, round_, "digested"), model)
    return metrics


def revisit(experiment: FedMD, store: Store, round_: int, client: str) -> dict[str, float]:
    """A few epochs on the client's private part, by cross-entropy, so that it does not forget its own data."""
    model = load(experiment, store, client, named(client, round_, "digested"))
    metrics = train_privately(experiment, store, round_, client, model, experiment.revisit_epochs, "revisit")
    save(store, named(client, round_, "weights"), model)
    return metrics


def evaluate(experiment: FedMD, store: Store, round_: int, client: str) -> dict[str, float]:
    """The personal model on the private test set, or the client's own; round 0 is before any collaboration."""
    return test_accuracy(experiment, store, client, named(client, round_, "weights"))


STRATEGY = Strategy(
    name="fedmd", title="FedMD", settings=FedMD, workflow=workflow, fused=fused_workflow,
    steps=(
        of_worker(pretrain, lambda e, n: _epochs_of_fifths(n.public, e.pretrain_epochs)),
        of_client(transfer, lambda e, n: _epochs_of_fifths(n.client, e.transfer_epochs), leaves=personal_model),
        of_client(communicate, lambda e, n: Work(predicted=n.aligned), seconds=SHORT),
        of_aggregator(aggregate, lambda e, n: Work(gathered=n.aligned * e.clients), seconds=SHORT,
                      leaves=lambda r, server: named("public", r, "consensus")),
        of_client(digest, lambda e, n: Work(trained=n.aligned * e.digest_epochs)),
        of_client(revisit, lambda e, n: Work(trained=n.client * e.revisit_epochs), needs="digest",
                  leaves=personal_model),
        of_client(evaluate, lambda e, n: Work(predicted=1), needs="revisit", seconds=SHORT),
    ),
    personal=True, model=personal_model,
    keeps=("consensus",), passing=("logits", "digested"), scratch=("digested",),
    profiles={"laptop": {"pretrain_epochs": 5, "transfer_epochs": 8},
              "smoke": {"pretrain_epochs": 3, "transfer_epochs": 4}},
    text_profiles={"laptop": {"pretrain_epochs": 20}},
    colour="#0173b2",
)


def _epochs_of_fifths(items: int, epochs: int) -> Work:
    """Four fifths are trained on, a fifth scores each epoch."""
    return Work(trained=0.8 * items * epochs, predicted=0.2 * items * epochs)


def _converge(experiment: FedMD, model: nn.Module, data: dict[str, Tensor], owner: str, step: str, batch: int,
              epochs: int, patience: int, order: int) -> dict[str, float]:
    """Train on four fifths until the loss on the last fifth stops falling."""
    fifth, rest = _fifth(experiment, data, owner, step)
    if not len(rest):
        raise KdlibError(f"{owner} has {len(data['y'])} windows, of which none is left to train on beside those that "
                         "it stops by; allowed: more of them, or windows that are shorter or farther apart")
    held_x, held_y = data["x"][fifth], data["y"][fifth]
    keep = KeepBest(lambda model: -cross_entropy(experiment, model, held_x, held_y), patience, experiment.min_delta)
    batches = Batches(experiment, data["x"][rest], data["y"][rest], batch, order)
    return fit(experiment, model, batches, F.cross_entropy, epochs=epochs, keep=keep)


def _fifth(experiment: FedMD, data: dict[str, Tensor], owner: str, step: str) -> tuple[Tensor, Tensor]:
    """Rows to stop by, and the rows to train on: drawn once per owner, or of a text the last ones after a gap."""
    rows, items = torch.arange(len(data["y"])), len(data["y"]) // 5
    if "at" in data:
        assert isinstance(experiment.task, TextTask)  # no other items have a place in a text
        rest, fifth = rows[:-items], rows[-items:]
        return fifth, rest[data["at"][rest] <= data["at"][fifth[0]] - experiment.task.window]
    shuffled = torch.from_numpy(experiment.rng(0, owner, f"{step}/fifth").permutation(len(rows)))
    fifth, rest = shuffled.tensor_split([items])
    return fifth, rest


def _own_model(experiment: FedMD, store: Store, round_: int, client: str) -> nn.Module:
    """The client's personal model before the round: of the newest round whose `revisit` it did not miss."""
    newest = last_counted(store, round_ - 1, "revisit", client)
    return load(experiment, store, client, named(client, newest, "weights"))


def _alignment_sample(experiment: FedMD, store: Store, round_: int, client: str, step: str) -> Tensor:
    """The round's public items (alignment_items, *task.shape), in the same order for every client."""
    items = store.get(public("data"))["x"]
    if experiment.alignment == "permuted":  # the artefact: every read reshuffles the public set before the draw
        items = items[torch.from_numpy(experiment.rng(round_, client, f"{step}/reshuffle").permutation(len(items)))]
    return items[alignment_rows(experiment, round_, len(items))]
