"""Figures of time, cost and selection: what is drawn is what the tables say."""

from itertools import pairwise

import matplotlib.pyplot as plt
import pandas as pd
import pytest

import made
from kdlib.cohort.history import simulate
from kdlib.registry import STRATEGIES
from kdlib.reports import cost, figures, times
from kdlib.reports.figures.style import colour
from kdlib.settings.experiment import make_experiment

FEDMD = make_experiment("digits", "fedmd", 1.0, profile="smoke", clients=3, rounds=1)
RECORDS = [
    made.record("pretrain", FEDMD.architectures[0], 8.0, 0, started=90.0),
    made.record("communicate", "client-0000", 4.0, started=100.0, around=1.0, bytes_in=400, cold=True),
    made.record("communicate", "client-0002", 2.0, started=101.5, bytes_in=100, bytes_out=50),
    made.record("aggregate", "server", 0.5, started=105.0, bytes_in=50),
    made.record("digest", "client-0002", 3.0, started=106.0, bytes_in=150, bytes_out=400),
]


@pytest.fixture
def fedmd(tmp_path):
    yield made.run(tmp_path, FEDMD, RECORDS)
    plt.close("all")


def bars(axis):
    """(from, to, y) of every bar, as drawn."""
    return [(bar.get_x(), bar.get_x() + bar.get_width(), bar.get_y() + bar.get_height() / 2) for bar in axis.patches]


def test_the_timeline_shows_who_ran_when_in_the_lanes_of_the_diagram(fedmd):
    (axis,) = figures.timeline(fedmd, 1, "title").axes
    drawn = {(start, end) for start, end, _ in bars(axis) if end > start}
    assert drawn >= {(0, 4), (1.5, 3.5), (5, 5.5), (6, 9)}, "the functions, from the round's first start"
    assert (4, 5) in drawn, "around client-0000's call"
    rows = {(start, end): y for start, end, y in bars(axis)}
    assert rows[1.5, 3.5] == rows[6, 9] > rows[0, 4] > 0, "a client has one row"
    assert rows[5, 5.5] > rows[6, 9], "aggregators come below"
    lanes = [label.get_text().replace("\n", " ") for label in axis.get_yticklabels()]
    assert lanes == ["controller", "store (read, written)", "client functions", "aggregator functions"]
    assert axis.get_xlabel() == "seconds since the round began (inline)"


def test_the_timelines_controller_has_the_stages_from_their_first_start_to_their_last_end(fedmd):
    (axis,) = figures.timeline(fedmd, 1, "title").axes
    assert sorted((start, end) for start, end, y in bars(axis) if abs(y) < 0.1) == [(0, 4), (5, 5.5), (6, 9)]


def test_the_timeline_says_what_moved_and_how_large(fedmd):
    figure = figures.timeline(fedmd, 1, "title")
    read, written = figure.axes[0].collections
    assert read.get_offsets()[:, 0].tolist() == [0, 1.5, 5, 6], "where an invocation begins"
    assert written.get_offsets()[:, 0].tolist() == [3.5, 9], "where it ends"
    assert (read.get_sizes() / read.get_sizes().max()).tolist() == [1, 0.25, 0.125, 0.375]
    told = [text.get_text() for text in figure.legends[0].get_texts()]
    assert told[0] == "communicate: 2 x 3 s, 1 cold, 0.0005 MB read, 5e-05 MB written" and len(told) == 3


def test_what_comes_before_the_rounds_has_the_workers_lane(fedmd):
    (axis,) = figures.timeline(fedmd, 0, "title").axes
    assert [label.get_text() for label in axis.get_yticklabels()][2:] == ["workers"]


def test_time_per_step_adds_up_and_tells_the_function_from_what_is_around_it(fedmd):
    table = pd.concat([times.per_step([fedmd]), times.per_step([fedmd]).assign(alpha=0.1)])
    (axis,) = figures.time_per_step(table, "title").axes
    assert axis.get_title() == "FedMD"
    assert [label.get_text() for label in axis.get_yticklabels()] == ["pretrain", "communicate", "aggregate", "digest"]
    drawn = [(start, end) for start, end, _ in bars(axis)]
    assert drawn[:4] == [(0, 8), (0, 6), (0, 0.5), (0, 3)] and (6, 7) in drawn
    assert "2 x 3 s" in [text.get_text() for text in axis.texts]
    assert axis.get_xlim()[1] > 8


def test_cost_per_step_is_in_cents_with_each_tables_sum(fedmd):
    bills = [cost.bill(fedmd, cost.load_prices(name)).groupby("step", sort=False)["usd"].sum().reset_index()
             .assign(strategy="fedmd fused", prices=name) for name in cost.built_in()]
    table = pd.concat(bills)
    (axis,) = figures.cost_per_step(table, "title").axes
    sums = table.groupby("prices")["usd"].sum() * 100
    assert axis.get_title() == "FedMD, fused\n" + ", ".join(f"{name} {sums[name]:.2g}" for name in cost.built_in())
    assert [end for _, end, _ in bars(axis)] == pytest.approx((table["usd"] * 100).tolist())


def test_selection_shows_every_call_of_a_seed_and_the_time_of_all():
    experiment = make_experiment("digits", "feddf", 1.0, profile="smoke", rounds=5, slow={"share": 0.5, "factor": 4},
                                 fail={"share": 0.2}, clients_per_round=3)
    items = dict.fromkeys(experiment.client_names, 10)
    table = pd.concat([simulate(experiment.model_copy(update={"selection": rule, "seed": seed}), items)
                       .assign(rule=rule, seed=seed) for rule in ("random", "behaviour") for seed in (0, 1)])
    figure = figures.selection(table, "title")
    calls, _, time = figure.axes
    assert [axis.get_title() for axis in figure.axes] == ["random: 15 calls", "behaviour: 15 calls",
                                                          "modelled time so far"]
    assert len(calls.collections[0].get_offsets()) == 15
    last = {line.get_label(): line.get_ydata()[-1] for line in time.lines if "seeds" in line.get_label()}
    longest = table.groupby(["rule", "seed", "round"])["seconds"].max().groupby(["rule", "seed"]).sum()
    assert last == pytest.approx({f"{rule}, mean of 2 seeds": longest[rule].mean() for rule in ("random", "behaviour")})
    plt.close(figure)


@pytest.mark.parametrize("strategy", STRATEGIES.names())
def test_steps_that_follow_each_other_differ_and_a_fused_one_is_like_its_first(strategy):
    declared = STRATEGIES.find(strategy).value
    steps = [step.name for step in declared.steps]
    assert len({colour(declared, step) for step in steps}) == len(steps)
    assert colour(declared, f"{steps[1]}+{steps[0]}>{steps[0]}") == colour(declared, steps[1])
    gaps = [sum(abs(a - b) for a, b in zip(colour(declared, one), colour(declared, other), strict=True))
            for one, other in pairwise(steps)]
    assert min(gaps) > 0.4, gaps
