"""FedMD's laws (PAPER: FedMD, serverless) on a real run's objects, and each on a run with its fault planted."""

import math

import laws
import numpy as np
import pytest
import torch

import altered
from kdlib.learning import client
from kdlib.settings.experiment import make_experiment
from kdlib.strategies import fedmd

SMALL = {"clients": 6, "rounds": 2, "samples": 60, "digest_batch": 64, "digest_epochs": 3}
TINY = SMALL | {"clients": 3, "pretrain_epochs": 1, "transfer_epochs": 1, "revisit_epochs": 1, "digest_epochs": 1,
                "public_items": 200, "alignment_items": 128, "test_items": 100}


@pytest.fixture(scope="module")
def clean(smoke):
    return smoke("fedmd", keep=True, **SMALL)


def phase_order(the_run):
    clients = the_run.experiment.client_names
    once = [("pretrain", the_run.experiment.architectures), ("transfer", clients), ("evaluate", clients)]
    in_round = [("communicate", clients), ("aggregate", ["server"]), ("digest", clients), ("revisit", clients),
                ("evaluate", clients)]
    laws.phases(the_run, once, lambda round_: in_round)


def transfer_goes_on_from_public_weights(the_run):
    """Private transfer moves every client away from its architecture's public weights, less than those from chance."""
    for name in the_run.experiment.client_names:
        start = client.start(the_run.experiment, name).state_dict()
        public = the_run.store.get(f"public/000/{the_run.experiment.architecture_of(name)}")
        own = the_run.store.get(f"{name}/000/weights")
        start, public, own = (torch.cat([weights[key].flatten() for key in start]) for weights in (start, public, own))
        assert 0 < (own - public).norm() < (own - start).norm(), f"{name} does not go on from the public weights"


def one_sample_for_all(the_run):
    """communicate predicts one sample in one order for all clients, with the weights of the round before."""
    samples = {frozenset(_sample(the_run, round_, laws.one_sample).tolist()) for round_ in laws.rounds(the_run)}
    assert len(samples) == the_run.experiment.rounds, "the sample is not drawn anew each round"


def consensus_is_the_mean(the_run):
    """z = 1/C sum_c z_c."""
    for round_ in laws.rounds(the_run):
        logits = [the_run.store.get(f"{name}/{round_:03}/logits")["logits"] for name in the_run.experiment.client_names]
        laws.close(the_run.store.get(f"public/{round_:03}/consensus")["logits"], laws.mean(logits),
                   "the consensus is not the clients' mean")


def digest_fits_the_consensus(the_run):
    """The digested weights are those of a plain loop on mean |f(x) - z| with a new Adam."""
    experiment = the_run.experiment
    for round_ in laws.rounds(the_run):
        x = the_run.store.get("public/data")["x"][_sample(the_run, round_)]
        consensus = the_run.store.get(f"public/{round_:03}/consensus")["logits"]
        for name in experiment.client_names:
            expected = laws.fit(
                laws.load(the_run, name, f"{name}/{round_ - 1:03}/weights"),
                lambda logits, z: (logits - z).abs().mean(),
                laws.epochs(x, consensus, experiment.digest_batch, experiment.entropy(round_, name, "digest/order")),
                steps=experiment.digest_epochs * math.ceil(len(x) / experiment.digest_batch),
                seed=experiment.entropy(round_, name, "digest"))
            laws.close_weights(the_run.store.get(f"{name}/{round_:03}/digested"), expected,
                               f"{name} did not digest by mean absolute error")


def digest_comes_nearer(the_run):
    """Over clients and rounds, mean |f(x) - z| on the round's sample falls in the digest."""
    distances = []
    for round_ in laws.rounds(the_run):
        x = the_run.store.get("public/data")["x"][_sample(the_run, round_)]
        consensus = the_run.store.get(f"public/{round_:03}/consensus")["logits"]
        distances += [[(laws.logits(the_run, name, f"{name}/{weights}", x) - consensus).abs().mean()
                       for weights in (f"{round_ - 1:03}/weights", f"{round_:03}/digested")]
                      for name in the_run.experiment.client_names]
    before, after = np.mean(distances, axis=0)
    assert after < before, "the digest brings the clients no nearer to the consensus"


def revisit_trains_on_private_data(the_run):
    """The round's weights are those of a plain loop on the private part, from the digested weights."""
    for round_ in laws.rounds(the_run):
        for name in the_run.experiment.client_names:
            expected = laws.privately(the_run, round_, name, f"{name}/{round_:03}/digested",
                                      the_run.experiment.revisit_epochs, "revisit")
            laws.close_weights(the_run.store.get(f"{name}/{round_:03}/weights"), expected,
                               f"{name} did not revisit its own data")


LAWS = (phase_order, laws.parts, transfer_goes_on_from_public_weights, one_sample_for_all, consensus_is_the_mean,
        digest_fits_the_consensus, digest_comes_nearer, revisit_trains_on_private_data)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_law(law, clean):
    law(clean)


def digest_skipped(patch):
    altered.handlers(patch, "fedmd", digest=_pass_on("{before}/weights", "{now}/digested"))


# Long enough for the distance to fall; a digest of a few steps only moves batch norm's statistics.
LONGER = SMALL | {"clients": 3, "pretrain_epochs": 3, "transfer_epochs": 4, "public_items": None,
                  "alignment_items": 256}


def digest_skipped_in_a_longer_run(patch):
    digest_skipped(patch)
    return LONGER


def squared_error(patch):
    patch.setattr(torch.nn.functional, "l1_loss", torch.nn.functional.mse_loss)


def revisit_skipped(patch):
    altered.handlers(patch, "fedmd", revisit=_pass_on("{now}/digested", "{now}/weights"))


def one_client_left_out(patch):
    patch.setattr(fedmd, "agreed", lambda tensors, how: client.mean(tensors[1:]))


def permuted(patch):
    return {"alignment": "permuted"}


def one_draw_for_all_rounds(patch):
    patch.setattr(fedmd, "alignment_rows", lambda experiment, _, items: client.alignment_rows(experiment, 1, items))


def transfer_lost(patch):
    return {"transfer": "lost"}


def private_before_public(patch):
    pretrain, transfer, *others = fedmd.workflow(make_experiment("digits", "fedmd", 1.0, profile="smoke", **TINY), None)
    altered.declare(patch, "fedmd", workflow=lambda *_: iter([transfer, pretrain, *others]))
    return {"transfer": "lost"}  # with `used` the Step would lack its start


@pytest.mark.parametrize(("fault", "broken"), [
    (private_before_public, {phase_order: "not in PAPER's order"}),
    (laws.overlapping_parts, {laws.parts: "share an item"}),
    (transfer_lost, {transfer_goes_on_from_public_weights: "does not go on"}),
    (permuted, {one_sample_for_all: "did not predict the sample", digest_fits_the_consensus: "did not digest"}),
    (one_draw_for_all_rounds, {one_sample_for_all: "not drawn anew"}),
    (one_client_left_out, {consensus_is_the_mean: "not the clients' mean"}),
    (digest_skipped, {digest_fits_the_consensus: "did not digest"}),
    (digest_skipped_in_a_longer_run, {digest_comes_nearer: "no nearer"}),
    (squared_error, {digest_fits_the_consensus: "did not digest"}),
    (revisit_skipped, {revisit_trains_on_private_data: "did not revisit"}),
], ids=lambda value: getattr(value, "__name__", ""))
def test_law_fails_on_its_fault(fault, broken, smoke, monkeypatch):
    settings = TINY | (fault(monkeypatch) or {})
    faulty = smoke("fedmd", keep=True, **settings)
    for law, says in broken.items():
        with pytest.raises(AssertionError, match=says):
            law(faulty)


def test_no_test_label_decides(smoke, relabelled):
    laws.no_test_label_decides(smoke("fedmd", keep=True, **TINY), relabelled("fedmd", keep=True, **TINY))


def test_a_test_label_that_decides_is_seen(smoke, relabelled, monkeypatch):
    laws.leak(monkeypatch, "private")
    with pytest.raises(AssertionError, match="reached a decision"):
        laws.no_test_label_decides(smoke("fedmd", keep=True, **TINY), relabelled("fedmd", keep=True, **TINY))


def _sample(the_run, round_, found_by=laws.sample_rows):
    """The rows of the round's sample among the public items."""
    return found_by(the_run, round_, lambda name: f"{name}/{round_ - 1:03}/weights")


def _pass_on(source, target):
    """A handler that stores a client's earlier weights as they are."""

    def handler(experiment, store, round_, name):
        rounds = {"before": f"{round_ - 1:03}", "now": f"{round_:03}"}
        store.put(f"{name}/{target.format(**rounds)}", store.get(f"{name}/{source.format(**rounds)}"))
        return {"items": 0}

    return handler
