"""What is said and drawn of runs of an outside strategy and outside networks."""

import csv
import shutil
import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from guests import PACKAGE, ROWS, experiment, python
from matplotlib.colors import to_rgb

import forked
import kdlib
from kdlib.errors import KdlibError
from kdlib.invoke.strategy import Sizes
from kdlib.paper import claims
from kdlib.reports import cost, figures, times
from kdlib.reports.cost import load_prices
from kdlib.reports.estimate import estimate, probe
from kdlib.reports.figures.style import looks
from kdlib.runs import exports, runner
from kdlib.settings.experiment import from_json

STEPS = ["train", "predict", "sharpen", "distil", "evaluate"]
GCF = load_prices("gcf")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def images(folder):
    """A run on digits with an outside network beside one of kdlib's, and with one whose name is a reference."""
    networks = ("guestnet", f"{PACKAGE}.loose:flat", "cnn2-128-256")
    return runner.run(experiment("digits", architectures=networks), folder, progress=False)


@pytest.fixture(scope="module")
def rows(folder):
    return runner.run(experiment("rows"), folder, progress=False)


@pytest.fixture(scope="module")
def fused(tmp_path_factory):
    return runner.run(experiment("rows"), tmp_path_factory.mktemp("fused"), progress=False, fused=True)


@pytest.fixture(scope="module")
def baseline(folder):
    made = experiment("rows")
    common = {name: value for name, value in ROWS.items() if name != "alignment_items"}
    return runner.run(kdlib.make_experiment(made.task, "fedavg", **common, clients_per_round=4), folder, progress=False)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.mark.parametrize("task", ["digits", "rows"])
def test_it_is_estimated_from_one_step_of_each_kind(task):
    made = experiment(task)
    found = estimate(made, GCF, cores=1, progress=False)
    assert list(found.per_step) == STEPS and found.invocations == 34
    # by hand: 60 items and 2 epochs against 60 and 1; the alignment sample is the same, learnt in 2 epochs, not 1
    assert found.scaled == pytest.approx({"train": 2, "predict": 1, "sharpen": 2, "distil": 2, "evaluate": 1})
    assert found.seconds == pytest.approx(sum(found.per_step.values())) and found.bytes_moved > 0
    small = probe(made, Sizes(60, 200, made.alignment_items, 50))
    assert (small.clients, small.rounds, small.local_epochs, small.distil_epochs) == (2, 1, 1, 1)


def test_a_summary_has_its_steps_and_a_price(images):
    found = kdlib.summary(images)
    assert list(found.steps.index) == [*STEPS, "in all"] and found.rounds == "2 of 2"
    assert set(found.accuracy.index) == {*images.experiment.architectures, "mean"}
    assert found.steps.loc["in all", "usd"] == pytest.approx(float(cost.total(images, GCF)))
    assert "digits dsfl alpha 0.5 seed 0: round 2 of 2" in repr(found) and "sharpen" in found._repr_html_()
    carriers = cost.bill(images, GCF).groupby("step")["kind"].unique().map(list).to_dict()
    assert carriers == {name: ["aggregator" if name == "sharpen" else "client"] for name in STEPS}


def test_runs_are_compared_in_its_own_settings_and_one_key_twice_is_two_rows(rows, fused, baseline):
    table = kdlib.compare([rows, fused, baseline])
    assert list(table.index) == [rows.key, fused.key, baseline.key] and rows.key == fused.key
    assert table["strategy"].tolist() == ["dsfl", "dsfl fused", "fedavg"]
    assert table["temperature"].tolist()[:2] == [0.1, 0.1] and np.isnan(table["temperature"].iloc[2])
    assert table["usd"].tolist() == [pytest.approx(float(cost.total(one, GCF))) for one in (rows, fused, baseline)]


@pytest.mark.parametrize("which", ["images", "rows"])
def test_exported_models_load_and_predict_as_they_did(which, request, tmp_path):
    the_run = request.getfixturevalue(which)
    made = the_run.experiment
    written = exports.export(the_run, tmp_path / "models")
    assert [path.name for path in written] == sorted(["README.md", *(f"{c}.safetensors" for c in made.client_names)])
    card = (tmp_path / "models" / "README.md").read_text()
    again = from_json(card.splitlines()[-1].strip("`"))
    assert again == made and "one client's personal model" in card
    test = the_run.store.get("public/test")
    for client in made.client_names:
        model = kdlib.start(again, client)
        model.load_state_dict(safetensors.torch.load_file(tmp_path / "models" / f"{client}.safetensors"))
        reached = the_run.steps.query("step == 'evaluate' and round == 2 and subject == @client")["accuracy"].item()
        assert kdlib.accuracy(again, model, test["x"], test["y"]) == reached


NOTHING = pd.DataFrame(columns=["strategy", "alpha", "model", "round", "accuracy"]).astype({"alpha": float})


def test_the_accuracy_figure_has_a_line_for_each_network(images):
    table = figures.curves([images])
    figure = figures.accuracy(table, NOTHING, "title")
    (axis,) = figure.axes
    assert axis.get_title() == "DS-FL, alpha = 0.5"
    said = [text.get_text() for text in figure.legends[0].get_texts()]
    networks = ["cnn2-128-256", f"{PACKAGE}.loose:flat", "guestnet"]
    assert said == [*(f"{number}: {name}" for number, name in enumerate(networks)), "ours: one seed"]
    figure.canvas.draw()
    legend, whole = figure.legends[0].get_window_extent(), figure.bbox
    assert whole.x0 <= legend.x0 < legend.x1 <= whole.x1, "all of the legend can be seen"
    drawn = [line.get_ydata().tolist() for line in axis.lines if len(line.get_ydata())]
    assert drawn == [table.query("architecture == @name").sort_values("round")["accuracy"].tolist()
                     for name in networks]


def test_it_stands_beside_others_in_a_colour_of_its_own(rows, baseline):
    figure = figures.comparison(figures.curves([baseline, rows]), "title")
    said = [text.get_text() for text in figure.legends[0].get_texts()]
    assert said[:2] == ["DS-FL", "FedAvg"], "a baseline comes last"
    own, other = (to_rgb(line.get_color()) for line in figure.legends[0].get_lines()[:2])
    taken = {to_rgb(looks([name])[name][0]) for name in ("fedmd", "feddf", "fedavg", "alone")}
    assert own != other and own not in taken
    drawn = [line.get_ydata()[-1] for line in figure.axes[0].lines]
    assert drawn == pytest.approx([rows.result["accuracy"], baseline.result["accuracy"]])


def test_time_and_cost_are_drawn_step_by_step(rows, fused):
    table = times.per_step([rows, fused])
    figure = figures.time_per_step(table, "title")
    assert [axis.get_title() for axis in figure.axes] == ["DS-FL", "DS-FL, fused"]
    assert [[label.get_text() for label in axis.get_yticklabels()] for axis in figure.axes] == [
        STEPS, ["train+\npredict", "sharpen", "distil+\nevaluate>\ntrain+\npredict", "distil+\nevaluate"]]
    widths = [patch.get_width() for patch in figure.axes[0].patches][: len(STEPS)]
    assert widths == pytest.approx([rows.table.query("step == @name")["seconds"].sum() for name in STEPS])

    bills = cost.bill(rows, GCF).groupby("step", sort=False)["usd"].sum().reset_index()
    figure = figures.cost_per_step(bills.assign(strategy="dsfl", prices="gcf"), "title")
    (axis,) = figure.axes
    assert axis.get_title() == f"DS-FL\ngcf {100 * float(cost.total(rows, GCF)):.2g}"
    assert [patch.get_width() for patch in axis.patches] == pytest.approx((100 * bills["usd"]).tolist())


@pytest.mark.parametrize(("which", "called"), [("rows", STEPS), ("fused", ["sharpen", "distil+evaluate"])])
def test_a_rounds_timeline_has_its_steps_in_their_lanes(which, called, request):
    the_run = request.getfixturevalue(which)
    figure = figures.timeline(the_run, 2, "title")
    (axis,) = figure.axes
    said = [text.get_text().partition(":")[0] for text in figure.legends[0].get_texts()]
    assert said == called
    assert [label.get_text() for label in axis.get_yticklabels()] == [
        "controller", "store (read,\nwritten)", "client\nfunctions", "aggregator\nfunctions"]
    colours = [patch.get_facecolor() for patch in figure.legends[0].get_patches()]
    assert len(set(colours)) == len(called)
    rows = {round(patch.get_y() + 0.4, 2) for patch in axis.patches}
    assert len(rows) == 1 + 4 + 1, "the controller's, four clients' and the server's"


def test_the_papers_claims_are_made_as_if_it_were_not_there(common, tmp_path):
    """Its run is the profile's, with an alpha that no other has."""
    (tmp_path / "runs").mkdir()
    for one in (common("fedmd", alpha=0.1), common("feddf", alpha=0.1)):
        shutil.copytree(one.folder, tmp_path / "runs" / one.key)

    def made(name):
        done = forked.run("kdlib", "claims", "--tasks", "digits", "--profile", "smoke", "--runs", tmp_path / "runs",
                          "--figures", tmp_path / name, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        with (tmp_path / name / "index.csv").open() as file:
            (row,) = csv.DictReader(file)
        return (tmp_path / name / "CLAIMS.md").read_text(), row["command"], row["runs"]

    before = made("before")
    kdlib.run(kdlib.make_experiment("digits", "dsfl", 0.3, profile="smoke"), tmp_path / "runs", progress=False)
    assert len(figures.complete(tmp_path / "runs")) == 3
    assert made("after") == before
    assert "0.3" not in claims.remake("digits", "smoke", claims.made("digits", "smoke", tmp_path / "runs"))


ELSEWHERE = """
import logging, sys
logging.basicConfig()
from kdlib.reports.figures import complete
print([one.experiment.strategy for one in complete(sys.argv[1])])
"""


def test_where_the_package_is_not_installed_its_runs_are_left_out_with_a_word(folder, images, rows, baseline):
    few = {"rounds": 1, "samples": 20, "test_items": 20, "local_epochs": 1}
    kdlib.run(kdlib.make_experiment("digits", "alone", profile="smoke", **few), folder, progress=False)
    shown = python(ELSEWHERE, folder)
    assert shown.stdout == "['alone']\n", shown.stderr
    lines = shown.stderr.splitlines()
    assert len(lines) == 3 and all("is left out: " in line and "`--plugin FILE.py`" in line for line in lines)
    assert shown.stderr.count("unknown strategy 'dsfl'") == 2
    assert shown.stderr.count("'rowsnet-32' is no architecture") == 1


def test_a_run_is_not_repeated_by_code_that_has_changed(rows, monkeypatch):
    monkeypatch.setattr(type(rows.experiment), "sources", {"strategy dsfl": "0" * 64})
    with pytest.raises(KdlibError, match=f"run {rows.key} cannot be repeated here: .*the code of its strategy"):
        runner.again(rows, progress=False)


def test_torchvisions_networks_are_networks(tmp_path):
    pytest.importorskip("torchvision", reason="torchvision is not installed here")
    rng = np.random.default_rng(0)
    y = np.arange(80) % 2
    x = (rng.integers(0, 100, (80, 40, 40, 3)) + 100 * y[:, None, None, None]).astype(np.uint8)
    colours = kdlib.task("guest-colours", (x[:60], y[:60]), x[60:], (x[60:], y[60:]))
    made = kdlib.make_experiment(colours, "dsfl", 100.0, profile="smoke", clients=2, rounds=1, samples=20,
                                 architectures=["torchvision.models:resnet18", "guestnet"], alignment_items=10)
    the_run = kdlib.run(made, tmp_path, progress=False)
    weights = the_run.store.get("client-0000/001/weights")
    assert weights["fc.weight"].shape == (2, 512) and torch.isfinite(weights["conv1.weight"]).all()
    assert set(the_run.result["per_architecture"]) == {"torchvision.models:resnet18", "guestnet"}
    assert made.sources["torchvision.models:resnet18"] and "torchvision" in sys.modules
