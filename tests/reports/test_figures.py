"""Tables and figures as functions of records."""

import csv

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from kdlib.errors import KdlibError
from kdlib.paper import published
from kdlib.reports import cost, figures, times
from kdlib.settings.experiment import make_experiment

PUBLISHED = """# a source
strategy,dataset,alpha,model,round,accuracy,gap_px
fedmd,mnist,100,0,0,0.1,0
feddf,mnist,100,0,0,0.2,0
fedmd,cifar,100,0,0,0.3,0
"""


@pytest.fixture(scope="module")
def made(smoke):
    """Two seeds of a baseline, in two folders of one runs folder each."""
    return [smoke("alone", rounds=1, seed=seed, samples=40, local_epochs=1) for seed in (0, 1)]


def test_interval_is_students():
    # by hand: mean 2, s = 1, t(0.975, 2) = 4.302653, half = 4.302653 / sqrt(3)
    assert figures.interval([1.0, 2.0, 3.0]) == pytest.approx(2.484138)
    assert np.isnan(figures.interval([1.0]))


def test_curves_are_means_over_an_architectures_clients(made):
    table = figures.curves(made, label="x")
    assert set(table.columns) == {"strategy", "alpha", "seed", "round", "architecture", "accuracy", "label"}
    assert len(table) == 2 * 3
    experiment = made[1].experiment
    first = experiment.architectures[0]
    own = [part.metrics["accuracy"] for record in made[1].records() for step, part in record.done.items()
           if step.name == "evaluate" and experiment.architecture_of(step.subject) == first]
    assert len(own) == 2
    assert table.query("seed == 1 and architecture == @first")["accuracy"].item() == pytest.approx(np.mean(own))


def test_final_table_takes_the_last_round_and_the_seeds(made):
    later = figures.curves(made)
    early = later.assign(round=0, accuracy=0.0)
    (row,) = figures.final_table(pd.concat([early, later])).itertuples()
    assert (row.strategy, row.alpha, row.seeds) == ("alone", 1.0, 2)
    results = [one.result["accuracy"] for one in made]
    assert row.mean == pytest.approx(np.mean(results)) and row.half == pytest.approx(figures.interval(results))


def test_published_curves_are_those_of_the_task_and_feddf_is_a_round_later(tmp_path):
    (tmp_path / "published.csv").write_text(PUBLISHED)
    table = published.curves(tmp_path / "published.csv", "mnist").set_index("strategy")
    assert table["round"].to_dict() == {"fedmd": 0, "feddf": 1}
    assert published.curves(tmp_path / "published.csv", "digits").empty


def test_find_gives_complete_runs_in_the_order_asked_for(made):
    runs = made[0].folder.parent
    assert figures.find(runs, [made[0].experiment]) == [made[0]]
    (runs / "no-run").mkdir()
    with pytest.raises(KdlibError, match=r"1 of 2 runs are not in .* digits feddf alpha 0.1 seed 0; make them with"):
        figures.find(runs, [made[0].experiment, make_experiment("digits", "feddf", 0.1)])


def test_a_run_that_cannot_be_read_here_is_left_out_and_told(smoke, caplog):
    the_run = smoke("alone", rounds=1, samples=40, local_epochs=1)
    stranger = the_run.folder.parent / "0123456789abcdef"
    stranger.mkdir()
    text = (the_run.folder / "experiment.json").read_text().replace("cnn2-128-256", "mlp-16")
    (stranger / "experiment.json").write_text(text)
    assert [one.key for one in figures.complete(the_run.folder.parent)] == [the_run.key]
    assert "0123456789abcdef is left out" in caplog.text and "mlp-16" in caplog.text


def test_keep_writes_equal_files_for_equal_figures_and_one_row_a_figure(made, tmp_path):
    files = []
    for command in ("first", "second"):
        figure = figures.comparison(figures.curves(made), "title")
        figures.keep(figure, "one", tmp_path, "04", command, made, pd.DataFrame({"a": [1]}))
        plt.close(figure)
        files.append({path.name: path.read_bytes() for path in tmp_path.glob("one.*")})
    assert set(files[0]) == {"one.png", "one.svg", "one.csv"} and files[0] == files[1]
    figures.keep(figure, "other", tmp_path, "04", "third", made)
    rows = list(csv.DictReader((tmp_path / "index.csv").open()))
    assert [(row["figure"], row["command"]) for row in rows] == [("one.png", "second"), ("other.png", "third")]
    assert rows[0]["runs"].split() == [one.key for one in made] and float(rows[0]["seconds"]) >= 0


@pytest.fixture(scope="module")
def texts(smoke, own_texts):
    """Both strategies on texts, where clients are roles."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDLIB_DATA", str(own_texts))
        return [smoke(strategy, alpha=None, task=str(own_texts / "own.toml"), rounds=1, samples=40, width=0.05,
                      alignment_items=16) for strategy in ("fedmd", "feddf")]


def test_runs_by_roles_are_drawn_and_told_as_such(texts, tmp_path):
    table = figures.curves(texts)
    assert set(table["alpha"]) == {"roles"} and len(figures.final_table(table)) == 2
    paper = pd.DataFrame(columns=["strategy", "alpha", "model", "round", "accuracy"]).astype({"alpha": float})
    for figure, titles in ((figures.accuracy(table, paper, "title"), ["FedMD, by roles", "FedDF, by roles"]),
                           (figures.comparison(table, "title"), ["by roles"])):
        assert [axis.get_title() for axis in figure.axes] == titles
        plt.close(figure)
    steps = times.per_step(texts)
    assert set(steps["strategy"]) == {"fedmd", "feddf"} and set(steps["alpha"]) == {"roles"}
    plt.close(figures.time_per_step(steps, "title"))
    assert set(times.to_reach(texts, 0.0, cost.load_prices("gcf"))["alpha"]) == {"roles"}
    with pytest.raises(KdlibError, match="the first being own fedmd seed 0; make them with"):
        figures.find(tmp_path, [one.experiment for one in texts])


def test_the_accuracy_figure_has_a_panel_an_alpha_and_strategy_and_a_line_an_architecture(made):
    table = figures.curves(made)
    table = pd.concat([table, table.assign(alpha=100.0), table.assign(strategy="fedmd")])
    paper = pd.DataFrame([("fedmd", 1.0, 0, 0, 0.5), ("fedmd", 1.0, 0, 1, 0.6)],
                         columns=["strategy", "alpha", "model", "round", "accuracy"])
    figure = figures.accuracy(table, paper, "title")
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == [f"{name}, alpha = {alpha}" for alpha in (100, 1) for name in ("FedMD", "alone")]
    dashed = [list(line.get_ydata()) for axis in figure.axes for line in axis.lines if line.get_linestyle() == "--"]
    assert [line for line in dashed if line] == [[0.5, 0.6]]
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert shown[:3] == ["0: cnn2-128-256", "1: cnn3-64-128-256", "2: cnn4-64-64-64-256"]
    assert shown[3:] == ["ours: mean of 2 seeds, band: Student's 95 % interval", figures.PUBLISHED]
    plt.close(figure)


def test_the_bubbles_of_a_hundred_clients_stay_small_as_svg(tmp_path):
    rows = [{"client": f"client-{client:04}", "label": label, "items": 1 + (client * label) % 7}
            for client in range(100) for label in range(10)]
    figure = figures.data_distribution(dict.fromkeys((100.0, 50.0, 1.0, 0.1), pd.DataFrame(rows)), "bubbles")
    figures.keep(figure, "data", tmp_path, "01", "kdlib", [])
    plt.close(figure)
    assert (tmp_path / "data.svg").stat().st_size < 1_000_000, "as paths they take over two million bytes"


def test_the_tradeoff_has_a_panel_a_strategy_and_a_point_a_way():
    table = pd.DataFrame([{"strategy": strategy, "way": way, "seconds": seconds, "mean": mean, "half": half}
                          for strategy in ("FedMD", "FedDF")
                          for way, seconds, mean, half in (("usual", 10.0, 0.5, 0.1), ("bf16", 5.0, 0.4, np.nan))])
    figure = figures.tradeoff(table, "time against accuracy")
    for panel in figure.axes:
        points = {tuple(found[0].get_xydata()[0]) for found in panel.containers}
        assert points == {(10.0, 0.5), (5.0, 0.4)}
        lines = [line.get_xydata()[0] for line in panel.lines if line.get_linestyle() == "--"]
        assert lines[0][0] == 10.0 and lines[1][1] == 0.5, "the first way is what the others are held against"
    assert [panel.get_title() for panel in figure.axes] == ["FedMD", "FedDF"]
    plt.close(figure)
