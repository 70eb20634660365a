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

import torch
import torch.nn.functional as F
from torch import Tensor

from kdlib.cohort.attendance import in_time, last_counted
from kdlib.cohort.history import History
from kdlib.invoke.steps import Stage
from kdlib.learning import client as c
from kdlib.learning.engine import Batches, KeepBest, cross_entropy, predict
from kdlib.settings.experiment import FedMD
from kdlib.store.store import Store

SMALLEST_TO_STOP = 50  # items of a client; below it a fifth is too few to stop by (PAPER: Tasks)


def workflow(experiment: FedMD, history: History):
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
        yield Stage("evaluate", clients, round_)


def fused_workflow(experiment: FedMD, history: History):
    """The same Steps with the same bytes, a client's from one consensus to the next in a single invocation."""
    clients = experiment.client_names
    yield Stage("pretrain", experiment.architectures)
    yield Stage("transfer+evaluate>communicate", clients)
    for round_ in range(1, experiment.rounds + 1):
        yield Stage("aggregate", ("server",), round_)
        last = round_ == experiment.rounds
        yield Stage("digest+revisit+evaluate" if last else "digest+revisit+evaluate>communicate", clients, round_)


def pretrain(experiment: FedMD, store: Store, round_: int, architecture: str) -> dict[str, float]:
    """Public transfer learning, once per architecture: cross-entropy on the labelled public data.

    Stops on a fixed, seeded fifth of them, of a text the last; the best weights are kept.
    """
    public = store.get("public/data")
    model = c.start(experiment, architecture)
    metrics = _converge(experiment, model, public, "public", "pretrain", experiment.pretrain_batch,
                        experiment.pretrain_epochs, experiment.pretrain_patience,
                        order=experiment.entropy(round_, architecture, "pretrain/order"))
    c.save(store, f"public/000/{architecture}", model)
    return metrics


def transfer(experiment: FedMD, store: Store, round_: int, client: str) -> dict[str, float]:
    """Private transfer learning from the architecture's public weights; stops on a fixed fifth of the client's part."""
    own = store.get(f"private/{client}/data")
    order = experiment.entropy(round_, client, "transfer/order")
    if experiment.transfer == "lost":  # the artefact: nobody ever reads what both transfer phases learnt
        model = c.start(experiment, client)
    else:
        model = c.load(experiment, store, client, f"public/000/{experiment.architecture_of(client)}")
    untouched = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if len(own["y"]) < SMALLEST_TO_STOP:
        batches = Batches(own["x"], own["y"], experiment.batch, order)
        metrics = c.train(experiment, model, batches, F.cross_entropy, epochs=experiment.transfer_epochs)
    else:
        metrics = _converge(experiment, model, own, client, "transfer", experiment.batch,
                            experiment.transfer_epochs, experiment.transfer_patience, order)
    if experiment.transfer == "lost":
        model.load_state_dict(untouched)
    c.save(store, f"{client}/000/weights", model)
    return metrics


def communicate(experiment: FedMD, store: Store, round_: int, client: str) -> dict[str, float]:
    """z_c = f_c(X_r): the client's logits on the round's alignment sample X_r."""
    model = _own_model(experiment, store, round_, client)
    logits = predict(experiment, model, _alignment_sample(experiment, store, round_, client, "communicate"))
    store.put(f"{client}/{round_:03}/logits", {"logits": logits})
    return {"items": len(logits)}


def aggregate(experiment: FedMD, store: Store, round_: int, server: str) -> dict[str, float]:
    """z = 1/C sum_c z_c: the consensus, the plain mean over all clients that were in time."""
    clients = in_time(store, round_, "communicate", experiment.client_names)
    logits = [store.get(f"{client}/{round_:03}/logits")["logits"] for client in clients]
    store.put(f"public/{round_:03}/consensus", {"logits": c.mean(logits)})
    return {"clients": len(logits)}


def digest(experiment: FedMD, store: Store, round_: int, client: str) -> dict[str, float]:
    """min mean |f_c(X_r) - z|: the client fits its logits to the consensus, with a new Adam."""
    model = _own_model(experiment, store, round_, client)
    x = _alignment_sample(experiment, store, round_, client, "digest")
    consensus = store.get(f"public/{round_:03}/consensus")["logits"]
    batches = Batches(x, consensus, experiment.digest_batch, experiment.entropy(round_, client, "digest/order"))
    metrics = c.train(experiment, model, batches, F.l1_loss, epochs=experiment.digest_epochs)
    c.save(store, f"{client}/{round_:03}/digested", model)
    return metrics


def revisit(experiment: FedMD, store: Store, round_: int, client: str) -> dict[str, float]:
    """A few epochs on the client's private part, by cross-entropy, so that it does not forget its own data."""
    model = c.load(experiment, store, client, f"{client}/{round_:03}/digested")
    metrics = c.train_privately(experiment, store, round_, client, model, experiment.revisit_epochs, "revisit")
    c.save(store, f"{client}/{round_:03}/weights", model)
    return metrics


def evaluate(experiment: FedMD, store: Store, round_: int, client: str) -> dict[str, float]:
    """The personal model on the private test set, or the client's own; round 0 is before any collaboration."""
    return c.evaluate(experiment, store, client, f"{client}/{round_:03}/weights")


NEEDS = {"revisit": "digest", "evaluate": "revisit"}  # a client that missed the second is not called for the first
HANDLERS = {handler.__name__: handler for handler in
            (pretrain, transfer, communicate, aggregate, digest, revisit, evaluate)}


def _converge(experiment, model, data, owner, step, batch, epochs, patience, order) -> dict[str, float]:
    """Train on four fifths until the loss on the last fifth stops falling."""
    fifth, rest = _fifth(experiment, data, owner, step)
    held_x, held_y = data["x"][fifth], data["y"][fifth]
    keep = KeepBest(lambda model: -cross_entropy(experiment, model, held_x, held_y), patience, experiment.min_delta)
    batches = Batches(data["x"][rest], data["y"][rest], batch, order)
    return c.train(experiment, model, batches, F.cross_entropy, epochs=epochs, keep=keep)


def _fifth(experiment, data, owner, step) -> tuple[Tensor, Tensor]:
    """Rows to stop by, and the rows to train on: drawn once per owner, or of a text the last ones after a gap."""
    rows, items = torch.arange(len(data["y"])), len(data["y"]) // 5
    if "at" in data:
        rest, fifth = rows[:-items], rows[-items:]
        return fifth, rest[data["at"][rest] <= data["at"][fifth[0]] - experiment.task.window]
    shuffled = torch.from_numpy(experiment.rng(0, owner, f"{step}/fifth").permutation(len(rows)))
    fifth, rest = shuffled.tensor_split([items])
    return fifth, rest


def _own_model(experiment, store, round_, client):
    """The client's personal model before the round: of the newest round whose `revisit` it did not miss."""
    newest = last_counted(store, round_ - 1, "revisit", client)
    return c.load(experiment, store, client, f"{client}/{newest:03}/weights")


def _alignment_sample(experiment, store, round_, client, step) -> Tensor:
    """The round's public images, uint8 (alignment_items, H, W[, C]), in the same order for every client."""
    public = store.get("public/data")["x"]
    if experiment.alignment == "permuted":  # the artefact: every read reshuffles the public set before the draw
        public = public[torch.from_numpy(experiment.rng(round_, client, f"{step}/reshuffle").permutation(len(public)))]
    return public[c.alignment(experiment, round_, len(public))]
