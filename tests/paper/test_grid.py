"""What `kdlib reproduce` executes: which notebooks, in which order, with which parameters."""

from pathlib import Path

import nbformat
import pytest

from kdlib.errors import KdlibError
from kdlib.invoke import choice
from kdlib.paper import reproduction
from kdlib.paper.grid import Grid, Sheet, plan
from kdlib.paper.reproduction import reproduce

ROOT = Path(__file__).parents[2]


def stages(grid):
    return grid.stages(Path("notebooks"), Path("runs"), Path("figures"))


def names(grid):
    return [[sheet.notebook for sheet in stage] for stage in stages(grid)]


def test_every_alpha_and_seed_is_run_by_both_strategies_before_a_figure_is_drawn():
    grid = Grid("digits", "smoke", [100, 0.1], [0, 1])
    first, runs, last = names(grid)
    assert (first, last) == (["01_data_heterogeneity"], ["04_accuracy", "06_speedups"])
    assert runs == ["03_feddf", "02_fedmd"] * 4
    settings = {(sheet.notebook, sheet.parameters["alpha"], sheet.parameters["seed"]) for sheet in stages(grid)[1]}
    assert len(settings) == 8


def test_faults_are_run_at_the_smallest_alpha():
    faulty = [sheet for sheet in stages(Grid("digits", "smoke", [100, 0.1], [0], faults=True))[1]
              if {"transfer", "alignment", "kl"} & set(sheet.parameters)]
    assert len(faulty) == 3 and all(sheet.parameters["alpha"] == 0.1 for sheet in faulty)


def test_costs_add_the_notebooks_that_make_runs_of_their_own_one_after_another():
    assert names(Grid("digits", "smoke", [1], [0], costs=True))[3:] == [["05_time"], ["07_cost"]]


def test_where_clients_are_roles_there_is_no_alpha():
    grid = Grid("shakespeare", "smoke", [100, 0.1], [0], costs=True)
    assert names(grid) == [["01_roles"], ["03_feddf", "02_fedmd"], ["04_accuracy", "06_speedups"], ["05_time"],
                           ["07_cost"], ["05_retraining"], ["05_retraining"]]
    assert [sheets[0].name for sheets in grid.stages(Path("notebooks"), Path("runs"), Path("figures"))[-2:]] == [
        f"05_retraining-shakespeare-smoke-{strategy}.ipynb" for strategy in ("feddf", "fedmd")]
    assert "--alphas" not in Grid("shakespeare", "smoke", [None], [0]).command


@pytest.mark.parametrize(("grid", "only", "says"), [
    (Grid("digits", "smoke", [1], [0]), ["09_none"], "no notebook 09_none in the grid; allowed: 01_data_heterogeneity"),
    (Grid("digits", "smoke", [-1], [0]), [], "alpha"),
])
def test_what_no_grid_has_is_told(grid, only, says):
    with pytest.raises(KdlibError, match=says):
        plan([grid], ROOT / "notebooks", Path("runs"), Path("figures"), only)


def test_a_folder_without_notebooks_is_told():
    with pytest.raises(KdlibError, match="kdlib holds no notebooks"):
        plan([Grid("digits", "smoke", [1], [0])], ROOT / "kdlib", Path("runs"), Path("figures"))


def test_several_tasks_follow_one_another_and_share_what_is_the_same():
    grids = [Grid(task, "smoke", [1], [0]) for task in ("digits", "shakespeare")]
    found = [[(sheet.notebook, sheet.parameters.get("task")) for sheet in stage]
             for stage in plan(grids, ROOT / "notebooks", Path("runs"), Path("figures"))]
    assert found == [
        [("01_data_heterogeneity", "digits")], [("03_feddf", "digits"), ("02_fedmd", "digits")],
        [("04_accuracy", "digits"), ("06_speedups", None)],
        [("01_roles", "shakespeare")], [("03_feddf", "shakespeare"), ("02_fedmd", "shakespeare")],
        [("04_accuracy", "shakespeare")]]


def test_only_one_notebook_is_executed_where_it_is_asked_for(tmp_path):
    places = tmp_path / "runs", ROOT / "notebooks", tmp_path / "figures"
    stages = plan([Grid("digits", "smoke", [1], [0])], places[1], places[0], places[2], ["01_data_heterogeneity"])
    made = reproduce(stages, *places, 1)
    executed = [path.name for path in (tmp_path / "runs" / "notebooks").iterdir()]
    assert executed == ["01_data_heterogeneity-digits-0.ipynb"]
    assert {path.stem for path in made} == {"data-digits", "index"}


@pytest.mark.parametrize(("cores", "jobs", "sheets", "expected"), [
    (1, None, 8, (1, 1)), (2, None, 8, (1, 2)), (3, None, 8, (1, 3)), (4, None, 8, (2, 2)), (16, None, 8, (2, 8)),
    (16, None, 1, (1, 16)), (2, 2, 8, (2, 1)), (5, 3, 8, (3, 1)), (2, 5, 8, (2, 1)), (16, 5, 3, (3, 5))])
def test_notebooks_side_by_side_share_the_cores(cores, jobs, sheets, expected, monkeypatch):
    monkeypatch.setattr(reproduction, "cores", lambda: cores)
    assert reproduction.share(jobs, sheets) == expected and expected[0] * expected[1] <= cores


def test_a_notebook_gets_its_share(tmp_path, monkeypatch):
    monkeypatch.delenv(choice.MOST, raising=False)
    monkeypatch.setattr(reproduction, "cores", lambda: 1)  # it may have more in fact
    cells = [nbformat.v4.new_code_cell("place = ''", metadata={"tags": ["parameters"]}),
             nbformat.v4.new_code_cell("import os, pathlib\n"
                                       f"pathlib.Path(place).write_text(os.environ['{choice.MOST}'])")]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), tmp_path / "own.ipynb")
    places = tmp_path / "runs", tmp_path, tmp_path / "figures"
    reproduce([[Sheet("own", {"place": str(tmp_path / "share")})]], *places)
    assert (tmp_path / "share").read_text() == "1"


def test_the_command_is_the_one_that_makes_the_grid():
    grid = Grid("digits", "smoke", [100, 0.1], [0, 1], faults=True)
    assert grid.command == "kdlib reproduce --task digits --profile smoke --alphas '100 0.1' --seeds '0 1' --faults"
