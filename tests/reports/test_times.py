"""Times against runs made by hand."""

import numpy as np
import pandas as pd
import pytest

import made
from kdlib.errors import KdlibError
from kdlib.invoke.steps import Part
from kdlib.reports import times
from kdlib.reports.cost import load_prices
from kdlib.settings.experiment import make_experiment

FEDMD = make_experiment("digits", "fedmd", 1.0, profile="smoke", clients=3, rounds=2)
FIRST, SECOND, THIRD = FEDMD.architectures


def scored(round_, *accuracies):
    began = 40.0 * round_ + 30
    return [made.record("evaluate", f"client-000{index}", 0.5, round_, {"accuracy": accuracy}, started=began)
            for index, accuracy in enumerate(accuracies)]


# Two clients side by side (10-14 and 11-13), then one after another, as on a machine with less room.
RECORDS = [
    made.record("pretrain", FIRST, 8.0, 0, started=0.0, cold=True),
    made.record("transfer", "client-0000", 2.0, 0, started=8.0, around=0.5, bytes_in=10, bytes_out=3),
    *scored(0, 0.1, 0.2, 0.3),
    made.record("communicate", "client-0000", 4.0, started=50.0, around=1.0, bytes_in=100, bytes_out=20),
    made.record("communicate", "client-0001", 2.0, started=51.0, cold=True, bytes_in=100, bytes_out=30),
    made.record("communicate", "client-0002", 3.0, started=55.0, bytes_in=100, bytes_out=40),
    made.record("aggregate", "server", 0.25, started=58.0, bytes_in=90, bytes_out=30),
    *scored(1, 0.4, 0.5, 0.6),
    made.record("communicate", "client-0000", 1.0, 2, started=100.0),
    *scored(2, 0.7, 0.7, 0.7),
]


@pytest.fixture
def fedmd(tmp_path):
    return made.run(tmp_path, FEDMD, RECORDS)


def test_a_rounds_modelled_time_is_the_longest_of_each_stage_and_its_measured_one_the_wall_clock(fedmd):
    table = times.rounds(fedmd).set_index("round")
    assert table["modelled"].to_dict() == {0: 8 + 2 + 0.5, 1: 4 + 0.25 + 0.5, 2: 1 + 0.5}
    # 0-10.5 and 30-30.5; 50-55, 55-58.25, and 70-70.5: what lies between is not the round's
    assert table["measured"].to_dict() == pytest.approx({0: 11.0, 1: 8.75, 2: 1.5})
    assert table["accuracy"].to_dict() == pytest.approx({0: 0.2, 1: 0.5, 2: 0.7})
    assert "usd" not in table


def test_a_rounds_cost_is_the_sum_of_its_invocations(fedmd):
    table = times.rounds(fedmd, load_prices("gcf")).set_index("round")
    # clients 58 and the aggregator 184 USD for a million seconds, 0.4 for a million calls; 0.25 s count as 0.3
    assert table["usd"][1] == pytest.approx((7 * 0.4 + (9 + 1.5) * 58 + 0.3 * 184) / 1e6)
    assert table["usd"][2] == pytest.approx((4 * 0.4 + 2.5 * 58) / 1e6)


def test_per_step_tells_the_function_from_what_is_around_it(fedmd):
    (row,) = times.per_step([fedmd]).query("step == 'communicate'").to_dict("records")
    assert row == {"task": "digits", "strategy": "fedmd", "alpha": 1.0, "step": "communicate", "calls": 4, "cold": 1,
                   "seconds": 2.5, "around": 0.25, "longest": 4.0, "total": 10.0, "total_around": 1.0, "seeds": 1}


def test_per_step_is_of_one_run_whatever_the_seeds(fedmd, tmp_path):
    other = made.run(tmp_path, FEDMD.model_copy(update={"seed": 1}), [
        *RECORDS, made.record("communicate", "client-0001", 1.0, 2)], "1" * 16)
    (row,) = times.per_step([fedmd, other]).query("step == 'communicate'").to_dict("records")
    assert (row["calls"], row["cold"], row["total"], row["seeds"]) == (4.5, 1, 10.5, 2)
    assert row["seconds"] == pytest.approx(21 / 9)


def test_bytes_moved_are_per_phase(fedmd):
    table = times.moved([fedmd]).set_index("step")
    assert table.loc["communicate", ["bytes_in", "bytes_out"]].tolist() == [300, 90]
    assert table.loc["transfer", ["bytes_in", "bytes_out"]].tolist() == [10, 3]


@pytest.mark.parametrize(("accuracy", "round_", "modelled"), [(0.0, 0, 10.5), (0.5, 1, 15.25), (0.51, 2, 16.75)])
def test_what_it_takes_to_reach_an_accuracy_is_all_that_came_before(accuracy, round_, modelled, fedmd):
    (row,) = times.to_reach([fedmd], accuracy, load_prices("knative")).to_dict("records")
    assert (row["round"], row["modelled"]) == (round_, pytest.approx(modelled))
    spent = times.rounds(fedmd, load_prices("knative")).query("round <= @round_")
    assert (row["measured"], row["usd"]) == pytest.approx((spent["measured"].sum(), spent["usd"].sum()))


def test_what_was_never_reached_has_no_time(fedmd):
    (row,) = times.to_reach([fedmd], 0.71, load_prices("knative")).to_dict("records")
    assert np.isnan([row[name] for name in ("round", "modelled", "measured", "usd")]).all()


@pytest.mark.parametrize(("bests", "level"), [((0.7, 0.66), 0.65), ((0.349, 0.9), 0.3), ((0.04, 0.5), 0.0)])
def test_what_every_run_reaches_is_the_least_of_their_best_in_twentieths(bests, level, monkeypatch):
    curves = {name: pd.DataFrame({"accuracy": [np.nan, 0.01, best, 0.02]}) for name, best in enumerate(bests)}
    monkeypatch.setattr(times, "rounds", curves.get)
    assert times.reachable(list(curves)) == pytest.approx(level)


def test_two_invokers_are_not_mixed(fedmd, tmp_path):
    by_ray = [one.model_copy(update={"backend": "ray"}) for one in RECORDS]
    other = made.run(tmp_path, FEDMD, by_ray, "1" * 16)
    for measure in (times.per_step, times.moved, lambda runs: times.to_reach(runs, 0.5, load_prices("gcf"))):
        with pytest.raises(KdlibError, match="times of inline and ray cannot be mixed; allowed: runs by one invoker"):
            measure([fedmd, other])
    assert times.invoker([fedmd]) == "inline"


def test_one_run_begun_by_one_invoker_and_ended_by_another_is_mixed_too(tmp_path):
    by_two = [*RECORDS[:6], RECORDS[6].model_copy(update={"backend": "ray"})]
    with pytest.raises(KdlibError, match="inline and ray"):
        times.invoker([made.run(tmp_path, FEDMD, by_two)])


def test_the_steps_of_workers_may_have_an_invoker_of_their_own(tmp_path):
    elsewhere = [RECORDS[0].model_copy(update={"backend": "ray"}), *RECORDS[1:]]
    assert times.invoker([made.run(tmp_path, FEDMD, elsewhere)]) == "inline, Steps of workers by ray"


def test_a_fused_run_is_told_from_one_that_is_not(tmp_path):
    parts = tuple(Part(step=step, round=1, seconds=1.0, metrics={}) for step in ("digest", "revisit"))
    fused = made.run(tmp_path, FEDMD, [made.record("digest+revisit", "client-0000", 2.0, parts=parts)])
    assert times.label(fused) == "fedmd fused"
    assert set(times.invocations([fused])["strategy"]) == {"fedmd fused"}


def test_a_real_run_adds_up(smoke):
    the_run = smoke("feddf", rounds=2, samples=40, local_epochs=1, distil_batches=4, score_every=2)
    table = times.rounds(the_run, load_prices("lambda"))
    assert len(table) == 2 and table["accuracy"].iloc[-1] == pytest.approx(the_run.result["accuracy"])
    assert (table["modelled"] < table["measured"]).all(), "inline, one Step runs after another"
    assert table["measured"].sum() == pytest.approx(the_run.result["seconds"], abs=0.1)
    assert times.per_step([the_run])["total"].sum() == pytest.approx(the_run.table["seconds"].sum())
