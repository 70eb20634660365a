"""The laws of a task of texts (PAPER: Tasks) on real runs: roles as clients, each tested on its own windows."""

import laws
import pytest
import torch
import torch.nn.functional as F

from kdlib.learning import client
from kdlib.registry import STRATEGIES
from kdlib.strategies import fedmd

SMALL = {"rounds": 2, "samples": 60, "local_epochs": 1, "revisit_epochs": 1, "pretrain_epochs": 2, "transfer_epochs": 2,
         "distil_batches": 4, "score_every": 2, "alignment_items": 64, "width": 0.1}


@pytest.fixture(scope="module")
def here(own_texts):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDLIB_DATA", str(own_texts))
        yield own_texts


def settings(here, strategy):
    """A call's arguments: a small run of the strategy on the own texts, nothing swept away."""
    fields = STRATEGIES.find(strategy).value.settings.model_fields
    own = {name: value for name, value in SMALL.items() if name in fields}
    return {"strategy": strategy, "alpha": None, "task": str(here / "own.toml"), "keep": True, **own}


@pytest.fixture(scope="module")
def runs(smoke, here):
    return {strategy: smoke(**settings(here, strategy)) for strategy in STRATEGIES.names()}


@pytest.mark.parametrize("strategy", STRATEGIES.names())
def test_every_client_is_tested_on_its_own_windows(strategy, runs):
    """With its own weights, or those of its architecture's server model, by a plain evaluation."""
    run = runs[strategy]
    found, rounds = laws.metrics(run, "evaluate"), [0, 1, 2] if strategy == "fedmd" else [1, 2]
    assert set(found) == {(round_, name) for round_ in rounds for name in run.experiment.client_names}
    assert not run.store.exists("public/test")
    for (round_, name), metrics in found.items():
        server = f"public/{round_:03}/{run.experiment.architecture_of(name)}"
        model = client.load(run.experiment, run.store, name,
                            server if strategy in ("feddf", "fedavg") else f"{name}/{round_:03}/weights").eval()
        test = run.store.get(f"private/{name}/test")
        with torch.no_grad():
            right = (model(test["x"].long()).argmax(1) == test["y"]).double().mean()
        assert metrics["accuracy"] == pytest.approx(float(right)) and metrics["items"] == len(test["y"]) > 0


@pytest.mark.parametrize("strategy", STRATEGIES.names())
def test_the_partition_tells_each_clients_role_and_windows(strategy, runs):
    run = runs[strategy]
    table = run.partition
    assert table.groupby("client")["items"].sum().tolist() == [60] * 4 and table["role"].nunique() == 4
    assert table.groupby("client")["role"].nunique().tolist() == [1] * 4
    for name in run.experiment.client_names:
        y = run.store.get(f"private/{name}/data")["y"]
        counted = table[table["client"] == name].set_index("label")["items"].to_dict()
        assert counted == {label: y.tolist().count(label) for label in set(y.tolist())}


@pytest.mark.parametrize("strategy", STRATEGIES.names())
def test_no_test_label_decides(strategy, runs, relabelled, here):
    laws.no_test_label_decides(runs[strategy], relabelled(**settings(here, strategy)))


def test_no_window_has_two_roles_in_a_run(runs):
    run = runs["feddf"]
    names = [f"private/{name}/{kind}" for name in run.experiment.client_names for kind in ("data", "test")]
    held = [run.store.get(name)["x"] for name in (*names, "aggregator/validation", "public/data")]
    windows = [window.numpy().tobytes() for x in held for window in x]
    assert len(set(windows)) == len(windows)


@pytest.mark.parametrize(("owner", "step"), [("public", "pretrain"), ("client-0001", "transfer")])
def test_training_stops_by_the_last_fifth_after_a_gap(owner, step, runs):
    run = runs["fedmd"]
    own = run.store.get("public/data" if owner == "public" else f"private/{owner}/data")
    fifth, rest = fedmd._fifth(run.experiment, own, owner, step)
    items, at = len(own["y"]), own["at"]
    assert fifth.tolist() == list(range(items - items // 5, items))
    assert rest.tolist() == [row for row in range(items - items // 5) if at[row] + 20 <= at[fifth[0]]]
    assert 0 < len(rest) < items - items // 5, "no gap is seen"


def test_pretraining_keeps_the_weights_best_on_the_last_fifth(runs):
    run = runs["fedmd"]
    public = run.store.get("public/data")
    fifth, _ = fedmd._fifth(run.experiment, public, "public", "pretrain")
    for (_, architecture), metrics in laws.metrics(run, "pretrain").items():
        model = client.load(run.experiment, run.store, architecture, f"public/000/{architecture}").eval()
        with torch.no_grad():
            loss = F.cross_entropy(model(public["x"][fifth].long()), public["y"][fifth])
        assert metrics["best"] == pytest.approx(-float(loss), rel=1e-4)


def test_the_fused_round_has_the_same_bytes(smoke, here, runs):
    fused = smoke(**settings(here, "fedmd") | {"keep": False}, fused=True)
    plain = smoke(**settings(here, "fedmd") | {"keep": False})
    assert fused.result["final_bytes"] == plain.result["final_bytes"]


def test_both_strategies_share_roles_windows_and_starts(runs):
    fedmd_run, feddf_run = runs["fedmd"], runs["feddf"]
    for name in fedmd_run.experiment.client_names:
        for held in (f"private/{name}/data", f"private/{name}/test"):
            assert fedmd_run.store.content(held) == feddf_run.store.content(held)
        first, second = (client.start(run.experiment, name).state_dict() for run in (fedmd_run, feddf_run))
        assert all(torch.equal(first[key], second[key]) for key in first), "one vocabulary, one output"
