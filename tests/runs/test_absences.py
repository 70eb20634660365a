"""A client whose object is damaged is left out like one that failed, and said so; without patience the run ends."""

import json
import math

import pytest
import torch

import altered
from functions import KEY, SIGNING, Function, deployed, tiny
from kdlib.errors import Damaged, KdlibError
from kdlib.invoke.http import Endpoint, Failed, Http
from kdlib.invoke.invokers import Inline
from kdlib.invoke.steps import Step
from kdlib.runs import absences, archive, run, runner
from kdlib.runs.absences import Patience
from kdlib.strategies import feddf, fedmd

BAD, GOOD = "client-0001", ["client-0000", "client-0002", "client-0003"]
SETTINGS = {"clients": 4, "samples": 40}
EXPERIMENTS = {"fedmd": tiny("fedmd", **SETTINGS), "feddf": tiny("feddf", clients_per_round=4, **SETTINGS),
               "recomputed": tiny("feddf", clients_per_round=4, teachers="recomputed", **SETTINGS)}


class Patient(Inline):
    """Inline, but that it reports what failed, as functions do."""

    patient = True

    def attempt(self, key, experiment, store, steps):
        for step in steps:
            try:
                yield step, next(self.run(key, experiment, store, [step]))
            except KdlibError as error:
                yield step, error


def poison(patch, round_=1, kind="logits", change=lambda tensor: tensor * math.nan, own=BAD):
    """The client's step that writes `kind` writes it so."""
    def step(handler):
        def carried_out(experiment, store, number, client):
            metrics = handler(experiment, store, number, client)
            if client == own and number == round_:
                name = f"{client}/{number:03}/{kind}"
                store.put(name, {key: change(tensor) for key, tensor in store.get(name).items()})
            return metrics
        return carried_out

    altered.handlers(patch, "fedmd", communicate=step(fedmd.communicate))
    altered.handlers(patch, "feddf", train=step(feddf.train))


CASES = [("fedmd", "logits", "aggregate"), ("feddf", "logits", "teach"), ("feddf", "samples", "distil"),
         ("recomputed", "weights", "distil")]


@pytest.mark.parametrize(("strategy", "kind", "step"), CASES)
def test_without_patience_the_run_ends_in_one_clear_line(strategy, kind, step, tmp_path, monkeypatch):
    poison(monkeypatch, kind=kind, change=lambda tensor: tensor * math.nan if tensor.is_floating_point() else -tensor)
    with pytest.raises(Damaged) as error:
        runner.run(EXPERIMENTS[strategy], tmp_path, progress=False)
    said = str(error.value)
    assert f"{BAD}/001/{kind} in " in said and f"which {BAD} should have written" in said and "\n" not in said
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert not (folder / "result.json").exists()
    done = {(record.step, record.subject) for record in run.load(folder).records()}
    assert not {(step, "server"), (step, EXPERIMENTS[strategy].architecture_of(BAD))} & done


@pytest.mark.parametrize("round_", [1, 2])
@pytest.mark.parametrize(("strategy", "kind", "fused"), [
    ("fedmd", "logits", True), *((strategy, kind, False) for strategy, kind, _ in CASES)])
def test_with_patience_it_is_left_out_and_said_so(strategy, kind, fused, round_, tmp_path, monkeypatch, caplog):
    experiment = EXPERIMENTS[strategy]
    with monkeypatch.context() as patch:
        poison(patch, round_, kind, lambda tensor: tensor * math.nan if tensor.is_floating_point() else -tensor)
        the_run = runner.run(experiment, tmp_path, False, Patient(), fused, Patience(60, 0.5))
    assert f"kdlib: {BAD} is left out of round {round_}: {BAD}/{round_:03}/{kind} in " in caplog.text
    assert the_run.final["left_out"] == {BAD: [round_]}
    (line,) = map(json.loads, (the_run.folder / "left_out.jsonl").read_text().splitlines())
    made_by = "communicate" if strategy == "fedmd" else "train"
    assert (line["round"], line["step"], line["client"]) == (round_, made_by, BAD) and kind in line["why"]
    assert the_run.store.get_json(f"public/cohort/{round_:03}") == {made_by: GOOD}
    for loss in the_run.steps["loss"].dropna():
        assert math.isfinite(loss)
    if kind == "logits":
        agreed = {"fedmd": "consensus", "feddf": "teacher"}[strategy]
        left = [the_run.store.get(f"{client}/{round_:03}/logits")["logits"] for client in GOOD] if round_ == 2 else []
        if left:
            found = the_run.store.get(f"public/{round_:03}/{agreed}")["logits"]
            torch.testing.assert_close(found, torch.stack(left).mean(0))
    if (strategy, kind) != ("feddf", "samples"):  # whose logits had been taught with by then
        assert runner.again(the_run, progress=False) is True
        archive.keep(the_run, tmp_path / "kept")
        archive.restore(tmp_path / "kept", tmp_path / "restored")
        kept = run.load(tmp_path / "restored" / the_run.key)
        assert kept.final == the_run.final and runner.again(kept, progress=False) is True


def test_with_too_few_left_the_round_fails_and_the_same_command_goes_on(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        poison(patch)
        with pytest.raises(KdlibError, match=r"3 of 4 clients did communicate, allowed: .* 0\.8 or more; .*logits"):
            runner.run(EXPERIMENTS["fedmd"], tmp_path, False, Patient(), False, Patience(60, 0.8))
    assert not list(tmp_path.glob("*/left_out.jsonl"))
    the_run = runner.run(EXPERIMENTS["fedmd"], tmp_path, False, Patient(), False, Patience(60, 0.7))
    assert the_run.final["left_out"] == {BAD: [1]}, "what it wrote is still there"


def test_all_that_are_damaged_are_left_out_one_after_the_other(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        poison(patch)
        poison_of_both = fedmd.communicate

        def both(experiment, store, round_, client):
            metrics = poison_of_both(experiment, store, round_, client)
            if client in (BAD, "client-0002") and round_ == 1:
                store.put(f"{client}/001/logits", {"logits": torch.zeros(1)})
            return metrics

        altered.handlers(patch, "fedmd", communicate=both)
        the_run = runner.run(EXPERIMENTS["fedmd"], tmp_path, False, Patient(), False, Patience(60, 0.5))
    assert the_run.final["left_out"] == {BAD: [1], "client-0002": [1]}
    assert the_run.steps.query("step == 'aggregate'")["clients"].tolist() == [2, 4]


def test_what_is_damaged_of_nobody_that_could_be_left_out_ends_the_run(tmp_path, monkeypatch):
    def spoilt(experiment, store, round_, server):
        metrics = fedmd.aggregate(experiment, store, round_, server)
        store.put(f"public/{round_:03}/consensus", {"logits": torch.zeros(3)})
        return metrics

    altered.handlers(monkeypatch, "fedmd", aggregate=spoilt)
    with pytest.raises(KdlibError, match=r"0 of 4 clients did digest.*public/001/consensus"):
        runner.run(EXPERIMENTS["fedmd"], tmp_path, False, Patient(), False, Patience(60, 0.5))


@pytest.mark.parametrize("line", [
    " ", "{}", '{"round": -1, "step": "train", "client": "client-0000", "why": ""}', "\x85"])
def test_a_forged_line_of_who_was_left_out_is_refused(line, tmp_path):
    (tmp_path / "left_out.jsonl").write_text(line + "\n")
    with pytest.raises(KdlibError, match=r"left_out\.jsonl line 1 leaves nobody out"):
        absences.left_out(tmp_path)


def test_a_function_names_the_damaged_object_to_its_caller(tmp_path):
    experiment = EXPERIMENTS["fedmd"]
    store = deployed(f"{tmp_path}/store/{{owner}}", experiment)
    for client in experiment.client_names:
        rows, classes = 20, experiment.classes
        store.put(f"{client}/001/logits", {"logits": torch.zeros(rows, classes) / (client != BAD)})
    step = Step("aggregate", 1, "server")
    with Function("aggregator", f"file://{tmp_path}/store/{{owner}}", tmp_path / "log") as function:
        answer = function.step("aggregate", 1, "server")
        assert answer.status_code == 422 and answer.json()["damaged"] == f"{BAD}/001/logits"
        http = Http({"aggregator": Endpoint(url=function.url)}, SIGNING)
        ((_, outcome),) = http.attempt(KEY, experiment, store, [step])
        http.close()
    assert isinstance(outcome, Failed) and outcome.damaged == f"{BAD}/001/logits" and BAD in str(outcome)
