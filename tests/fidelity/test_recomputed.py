"""FedDF as in the original, where every student predicts the teachers' logits itself: the same numbers, more slowly."""

import laws
import pytest
import torch
from test_feddf import SMALL, TINY, one_client_left_out, phase_order

from kdlib.runs import runner
from kdlib.strategies import feddf


@pytest.fixture(scope="module")
def clean(smoke):
    return smoke("feddf", keep=True, **SMALL)


@pytest.fixture(scope="module")
def recomputed(smoke):
    """The clean run's experiment, but that every student predicts the teachers' logits itself."""
    return smoke("feddf", keep=True, teachers="recomputed", **SMALL)


def recomputed_logits_are_the_stored_mean(the_run):
    """For any rows of the round's sample, in any order and batch."""
    for round_ in laws.rounds(the_run):
        sample = laws.sample_rows(the_run, round_, lambda name, r=round_: f"{name}/{r:03}/weights")
        x = the_run.store.get("public/data")["x"][sample]
        found = feddf.Recomputed(the_run.experiment, the_run.store, round_, x)
        stored = the_run.store.get(f"public/{round_:03}/teacher")["logits"]
        for rows in torch.randperm(len(x), generator=torch.Generator().manual_seed(round_)).split(100):
            torch.testing.assert_close(found[rows], stored[rows], rtol=0, atol=1e-5)


def test_recomputed_logits_are_the_stored_mean(clean):
    recomputed_logits_are_the_stored_mean(clean)


def test_recomputed_logits_of_fewer_clients_are_seen(clean, monkeypatch):
    one_client_left_out(monkeypatch)
    with pytest.raises(AssertionError, match="not close"):
        recomputed_logits_are_the_stored_mean(clean)


def test_with_recomputed_teachers_nobody_teaches_and_no_logits_are_stored(recomputed, clean):
    assert {record.step for record in recomputed.records()} == {"train", "distil", "evaluate"}
    assert [name for name in recomputed.store.names() if name.endswith(("/logits", "/teacher"))] == []
    with pytest.raises(AssertionError, match="not in PAPER's order"):
        phase_order(recomputed)
    assert recomputed.key != clean.key


def test_recomputed_teachers_teach_the_same(recomputed, clean):
    """The first round's students differ by rounding alone; the end of the run, which that may move, is close."""
    for architecture in clean.experiment.architectures:
        student, same = (of.store.get(f"public/001/{architecture}") for of in (recomputed, clean))
        laws.close_weights(student, same, f"{architecture} learnt something else from recomputed teachers")
    assert recomputed.result["accuracy"] == pytest.approx(clean.result["accuracy"], abs=0.02)


def test_a_recomputed_run_repeats(smoke):
    assert runner.again(smoke("feddf", teachers="recomputed", **TINY), progress=False) is True
