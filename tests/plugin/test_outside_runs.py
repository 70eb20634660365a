"""A strategy and networks of a package that kdlib does not know: the same final bytes by every way to run them."""

import contextlib
import dataclasses
import json
import os
import signal
import sys
import time

import pytest
import torch
from guests import NAMED, PACKAGE, experiment, naming, options, rows_folder
from ray import get
from ray.exceptions import RayTaskError

import forked
import kdlib
from functions import KEY
from kdlib.errors import KdlibError
from kdlib.invoke.http import Http
from kdlib.invoke.invokers import Inline
from kdlib.invoke.perform import perform
from kdlib.invoke.ray import Ray
from kdlib.invoke.steps import Step
from kdlib.invoke.worker import Errand
from kdlib.registry import STRATEGIES, load
from kdlib.runs import driver, runner
from kdlib.runs.driver import Patience

TASKS = ("digits", "rows")
IMAGES_OF_SELECTING = {"profile": "smoke", "clients": 6, "clients_per_round": 3, "rounds": 4, "samples": 30,
                       "test_items": 50, "local_epochs": 1, "architectures": ("cnn2-128-256",)}


@pytest.fixture(scope="module")
def inline(tmp_path_factory):
    """task -> the run in this process, a Step at a time."""
    folder = tmp_path_factory.mktemp("inline")
    return {task: runner.run(experiment(task), folder, progress=False) for task in TASKS}


@pytest.fixture(scope="module")
def ray(ray_folder):
    """Ray on this machine."""
    with contextlib.closing(Ray(workers=2)) as invoker:
        yield invoker


@pytest.fixture(scope="module")
def http(tmp_path_factory):
    """Functions that `python -m faas up` has started, sized for the outside networks."""
    folder = tmp_path_factory.mktemp("http") / "functions"
    folder.with_suffix(".json").write_text(experiment("digits").model_dump_json())
    up = forked.run("faas", "up", "--process", "--experiment", folder.with_suffix(".json"), "--folder", folder,
                    cwd=folder.parent, timeout=600)
    assert up.returncode == 0, up.stderr
    with contextlib.closing(Http.from_file(folder / "endpoints.json")) as invoker:
        yield invoker
    assert forked.run("faas", "down", "--folder", folder, cwd=folder.parent).returncode == 0


def test_it_is_the_installed_package_that_runs(site, inline):
    assert {name for name in sys.modules if name.startswith(PACKAGE)} > {f"{PACKAGE}.dsfl", f"{PACKAGE}.guestnet"}
    assert all(str(site) in sys.modules[name].__file__ for name in sys.modules if name.startswith(PACKAGE))


@pytest.mark.parametrize("task", TASKS)
def test_its_records_and_models_are_those_of_its_workflow(task, inline):
    the_run = inline[task]
    assert the_run.table.groupby("step").size().to_dict() == {
        "train": 8, "predict": 8, "sharpen": 2, "distil": 8, "evaluate": 8}
    assert set(the_run.result["per_architecture"]) == set(the_run.experiment.architectures)
    left = [name for name in the_run.store.names() if name.split("/")[0] in ("public", "client-0001")]
    kept = {"public/001/consensus", "public/002/consensus", "client-0001/002/weights"}
    assert kept <= set(left) and "client-0001/001/weights" not in left, "the consensus is kept, the models are not"


@pytest.mark.parametrize("task", TASKS)
def test_it_computes_what_the_paper_says(task, tmp_path, monkeypatch):
    monkeypatch.setattr(driver, "sweep", lambda *_: None)
    the_run = runner.run(experiment(task), tmp_path, progress=False)
    store, made = the_run.store, the_run.experiment
    for round_ in (1, 2):
        rows = kdlib.alignment_rows(made, round_, len(store.get("public/data")["x"]))
        said = []
        for client in made.client_names:
            model = kdlib.load_model(made, store, client, f"{client}/{round_:03}/trained")
            probabilities = kdlib.predict(made, model, store.get("public/data")["x"][rows]).softmax(1)
            assert torch.equal(probabilities, store.get(f"{client}/{round_:03}/probabilities")["probabilities"])
            said.append(probabilities.double())
        mean = torch.stack(said).mean(0)
        by_hand = (mean / 0.1).exp() / (mean / 0.1).exp().sum(1, keepdim=True)
        consensus = store.get(f"public/{round_:03}/consensus")["probabilities"].double()
        assert torch.allclose(consensus, by_hand, atol=1e-6)
    if task == "rows":  # which are easy
        assert the_run.result["accuracy"] > 0.6


@pytest.mark.parametrize("task", TASKS)
def test_a_fused_run_has_the_same_bytes_in_fewer_calls(task, inline, tmp_path):
    fused = runner.run(experiment(task), tmp_path, progress=False, fused=True)
    assert fused.result["final_bytes"] == inline[task].result["final_bytes"]
    assert fused.table.groupby("step").size().to_dict() == {
        "train+predict": 4, "sharpen": 2, "distil+evaluate>train+predict": 4, "distil+evaluate": 4}
    assert len(fused.steps) == len(inline[task].steps)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("task", TASKS)
def test_ray_has_the_same_bytes(task, fused, ray, inline, tmp_path):
    the_run = runner.run(experiment(task), tmp_path, progress=False, invoker=ray, fused=fused)
    assert the_run.result["final_bytes"] == inline[task].result["final_bytes"]
    assert {record.backend for record in the_run.records()} == {"ray"}


@pytest.mark.parametrize("what", NAMED)
def test_a_worker_of_ray_imports_nothing_that_an_experiment_merely_names(what, ray, bomb, tmp_path):
    ray.start(1)
    errand = Errand(KEY, naming(what), (), (), str(tmp_path / "store"))
    sent = ray.task.remote(perform, errand, Step("train", 1, "client-0000"), "ray")
    with pytest.raises(RayTaskError, match=r"guest_bomb:\w+ is not registered here; allowed: `--plugin guest_bomb`"):
        get(sent)
    assert not bomb.exists()


PLUGIN = """
import kdlib
from guestlib.loose import flat
kdlib.register_network("guest_flat", flat)
"""


def test_a_worker_of_ray_refuses_another_source_than_the_drivers(ray, files, tmp_path):
    plugin = files("guest_flat", PLUGIN)
    load(str(plugin))
    made = experiment("digits", architectures=("cnn2-128-256", "guest_flat"))
    plugin.write_text(PLUGIN + "# another version\n")
    with pytest.raises(KdlibError, match=r"^network guest_flat is another version here than where the run was begun"):
        runner.run(made, tmp_path, progress=False, invoker=ray)
    plugin.write_text(PLUGIN)
    ray.close()  # its workers have imported the other one
    assert runner.run(made, tmp_path, progress=False, invoker=ray).result["per_architecture"]["guest_flat"] >= 0


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("task", TASKS)
def test_functions_have_the_same_bytes(task, fused, http, inline, tmp_path):
    the_run = runner.run(experiment(task, seed=int(fused)), tmp_path, progress=False, invoker=http, fused=fused)
    whole = inline[task] if not fused else runner.run(experiment(task, seed=1), tmp_path / "inline", progress=False)
    assert the_run.result["final_bytes"] == whole.result["final_bytes"]
    assert {record.backend for record in the_run.records()} == {"http"}


def test_a_module_of_the_package_that_no_entry_point_names_is_carried_to_ray(ray, tmp_path):
    made = experiment("digits", f"{PACKAGE}.loose:PLAIN", architectures=("cnn2-128-256", f"{PACKAGE}.loose:flat"))
    by_inline, by_ray = (runner.run(made, tmp_path / name, progress=False, invoker=invoker)
                         for name, invoker in (("inline", Inline()), ("ray", ray)))
    assert by_ray.result["final_bytes"] == by_inline.result["final_bytes"]
    assert f"{PACKAGE}.loose:flat" in by_ray.result["per_architecture"]


@pytest.mark.parametrize(("task", "rounds", "fused"), [("digits", 2, False), ("rows", 8, True)])
def test_killed_and_begun_again_it_ends_with_the_same_bytes(task, rounds, fused, tmp_path, monkeypatch):
    whole = runner.run(experiment(task, rounds=rounds), tmp_path / "whole", progress=False, fused=fused)
    if task == "rows":
        monkeypatch.setenv("KDLIB_DATA", str(tmp_path))
    words = ["run", "--strategy", "dsfl", "--runs", tmp_path / "runs", *["--fused"] * fused,
             *options("digits" if task == "digits" else rows_folder(tmp_path), rounds=rounds)]

    def lines():
        return sum(file.read_bytes().count(b"\n") for file in tmp_path.glob("runs/*/records/*.jsonl"))

    steps = len(whole.records())
    for after in (1, steps // 2):
        process = forked.start("kdlib", *words, cwd=tmp_path)
        while lines() < after:
            assert process.is_alive(), "the run ended before it could be killed"
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
    done = forked.run("kdlib", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "runs" / whole.key / "result.json").read_text())
    assert result["final_bytes"] == whole.result["final_bytes"] and lines() == steps


@pytest.mark.parametrize("task", TASKS)
def test_a_run_is_repeated(task, inline):
    assert runner.again(inline[task], progress=False) is True
    assert runner.again(inline[task], progress=False, fused=True) is True


def test_an_outside_strategy_may_choose_its_clients(tmp_path, monkeypatch):
    class Mine(kdlib.Selecting):
        """Settings of FedAvg by another name."""

    monkeypatch.setattr(STRATEGIES, "_parts", dict(STRATEGIES._parts))
    mine = dataclasses.replace(kdlib.strategy("fedavg"), name="guest-chooses", settings=Mine, title="mine")
    kdlib.register_strategy(mine)
    slow = {"slow": {"share": 0.5, "factor": 10}, "fail": {"share": 0.5, "rate": 0.5}, "selection": "behaviour"}
    made = kdlib.make_experiment("digits", "guest-chooses", 0.5, **IMAGES_OF_SELECTING, **slow)
    the_run = runner.run(made, tmp_path, progress=False)
    asked = the_run.table.query("step == 'train'").groupby("round").size()
    assert asked.max() <= 3 and len(asked) == 4 and runner.again(the_run, progress=False) is True
    theirs = kdlib.make_experiment("digits", "fedavg", 0.5, **IMAGES_OF_SELECTING, **slow)
    assert runner.run(theirs, tmp_path, progress=False).result["final_bytes"] == the_run.result["final_bytes"]
    assert list(made.sources) == ["strategy guest-chooses"] and not theirs.sources


class Late(Inline):
    """Inline, but for one client's Step that does not come in time, as with functions may happen."""

    patient = True

    def __init__(self, missed):
        super().__init__()
        self.missed = missed

    def attempt(self, key, experiment, store, steps):
        for step in steps:
            if step == self.missed:
                yield step, KdlibError(f"{step.subject} is late")
            else:
                yield step, next(self.run(key, experiment, store, [step]))


@pytest.mark.parametrize("name", ["train", "distil"])
def test_a_late_client_is_left_out_and_goes_on_from_its_last_model(name, inline, tmp_path):
    late = Late(Step(name, 1, "client-0002"))
    the_run = runner.run(experiment("rows"), tmp_path, False, late, patience=Patience(60, 0.5))
    its = the_run.table.query("subject == 'client-0002'")
    first = [] if name == "train" else ["train", "predict"]
    assert its.query("round == 1")["step"].tolist() == first
    assert its.query("round == 2")["step"].tolist() == ["train", "predict", "distil", "evaluate"]
    steps = the_run.steps
    assert steps.query("step == 'sharpen'")["clients"].tolist() == [3 if name == "train" else 4, 4]
    assert the_run.result["final_bytes"] != inline["rows"].result["final_bytes"]
    assert runner.again(the_run, progress=False) is True
