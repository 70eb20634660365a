import errno
import fcntl
import itertools
import json
import os

import pytest
import torch

import altered
from kdlib.cohort.history import in_turn
from kdlib.data import sets
from kdlib.errors import KdlibError
from kdlib.invoke.perform import perform
from kdlib.invoke.steps import Step
from kdlib.invoke.strategy import strategy_of
from kdlib.learning import client
from kdlib.registry import STRATEGIES
from kdlib.runs import run, runner
from kdlib.settings.experiment import make_experiment
from kdlib.strategies import alone

NAMES = STRATEGIES.names()
TINY = {"rounds": 2, "samples": 40, "local_epochs": 1, "revisit_epochs": 1, "pretrain_epochs": 1,
        "transfer_epochs": 1, "distil_batches": 4, "score_every": 2, "public_items": 200, "alignment_items": 64,
        "test_items": 100}


def tiny(strategy, **settings):
    """TINY's settings that the strategy has."""
    fields = STRATEGIES.find(strategy).value.settings.model_fields
    return {name: value for name, value in (TINY | settings).items() if name in fields}


@pytest.fixture(scope="module")
def runs(smoke):
    """One complete run a strategy."""
    return {strategy: smoke(strategy, **tiny(strategy)) for strategy in NAMES}


@pytest.fixture
def fresh(smoke):
    """A complete run that a test may spoil."""
    return smoke("alone", **tiny("alone"))


def repeat(the_run):
    return runner.run(the_run.experiment, the_run.folder.parent, progress=False)


def by_subject(records, name):
    return {(step.round, step.subject): part.metrics for record in records for step, part in record.done.items()
            if step.name == name}


@pytest.mark.parametrize("strategy", NAMES)
def test_a_run_is_its_folder(strategy, runs):
    the_run = runs[strategy]
    loaded = run.load(the_run.folder)
    assert loaded == the_run and loaded.experiment == the_run.experiment
    assert loaded.key == the_run.experiment.key(sets.prepare(the_run.experiment).hashes)
    assert {path.name for path in the_run.folder.iterdir()} == {
        "experiment.json", "machine.json", "data.json", "partition.parquet", "records", "store", "result.json"}
    assert not [path for path in the_run.folder.parent.iterdir() if path.name.endswith((".new", ".part"))]


@pytest.mark.parametrize("strategy", NAMES)
def test_the_tables_have_a_row_an_invocation_and_a_row_a_step(strategy, runs):
    the_run = runs[strategy]
    table, steps, records = the_run.table, the_run.steps, the_run.records()
    stages = strategy_of(the_run.experiment).stages(the_run.experiment, in_turn(the_run.experiment))
    expected = [step for stage in stages for step in stage.steps]
    assert [step for record in records for step in record.done] == expected
    assert len(table) == len(steps) == len(records) and set(table["run"]) == {the_run.key}
    for record, (_, row), (_, done) in zip(records, table.iterrows(), steps.iterrows(), strict=True):
        (part,) = record.parts
        assert (row["step"], row["round"], row["subject"]) == (record.step, record.round, record.subject)
        assert (done["step"], done["round"], done["subject"]) in record.done
        assert (row["bytes_in"], row["seconds"]) == (record.bytes_in, record.seconds)
        assert all(done[name] == value for name, value in part.metrics.items()) and done["seconds"] == part.seconds
        assert "parts" not in row and not set(part.metrics) & set(row.index)
        for shown in (row, done):
            if record.subject == "server":
                assert shown.isna()["architecture"]
            else:
                assert shown["architecture"] == the_run.experiment.architecture_of(record.subject)


@pytest.mark.parametrize("strategy", NAMES)
def test_the_result_sums_up_the_last_round(strategy, runs):
    the_run = runs[strategy]
    accuracies = {}
    for (round_, subject), metrics in by_subject(the_run.records(), "evaluate").items():
        if round_ == 2:
            architecture = the_run.experiment.architecture_of(subject)
            accuracies.setdefault(architecture, []).append(metrics["accuracy"])
    means = {architecture: sum(values) / len(values) for architecture, values in accuracies.items()}
    assert the_run.result["per_architecture"] == pytest.approx(means) and len(means) == 3
    assert the_run.result["accuracy"] == pytest.approx(sum(means.values()) / 3)
    assert 0 < the_run.result["seconds"] <= sum(record.seconds for record in the_run.records()) + 0.1


@pytest.mark.parametrize("strategy", NAMES)
def test_the_partition_recorded_is_the_one_held(strategy, runs):
    the_run = runs[strategy]
    for name, rows in the_run.partition.groupby("client"):
        counts = torch.bincount(the_run.store.get(f"private/{name}/data")["y"])
        assert dict(zip(rows["label"], rows["items"], strict=True)) == {
            label: count for label, count in enumerate(counts.tolist()) if count}
    assert set(the_run.partition["client"]) == set(the_run.experiment.client_names)


def test_strategies_share_parts_validation_and_alignment_draws(runs):
    parts = [f"private/{name}/data" for name in runs["alone"].experiment.client_names]
    for name in ["aggregator/validation", "public/test", *parts]:
        assert len({the_run.store.content(name) for the_run in runs.values()}) == 1, name
    both = [runs[strategy].experiment for strategy in ("fedmd", "feddf")]
    draws = {tuple(client.alignment_rows(experiment, 1, 200).tolist()) for experiment in both}
    assert len(draws) == 1


@pytest.mark.parametrize("strategy", ["fedmd", "feddf", "fedavg"])
def test_strategies_share_the_starts_of_their_blocks(strategy, runs):
    for architecture in runs["alone"].experiment.architectures:
        one, other = (client.start(runs[which].experiment, architecture).blocks for which in ("alone", strategy))
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("strategy", NAMES)
def test_a_longer_run_begins_with_the_shorter_ones_rounds(strategy, runs, smoke):
    longer = runs[strategy]
    shorter = smoke(strategy, **tiny(strategy, rounds=1))
    first = by_subject(shorter.records(), "evaluate")
    assert first and first == {key: metrics for key, metrics in by_subject(longer.records(), "evaluate").items()
                               if key[0] <= 1}
    assert shorter.key != longer.key


@pytest.mark.parametrize("strategy", NAMES)
def test_no_test_label_reaches_a_weight(strategy, runs, relabelled):
    other = relabelled(strategy, **tiny(strategy))
    names = other.store.names()
    assert names == runs[strategy].store.names()
    changed = [name for name in names if other.store.content(name) != runs[strategy].store.content(name)]
    assert changed == ["public/test"]
    assert by_subject(other.records(), "evaluate") != by_subject(runs[strategy].records(), "evaluate")


@pytest.mark.parametrize(("strategy", "kept"), [
    ("fedmd", {"client-0000/002/weights", "public/001/consensus", "public/002/consensus"}),
    ("feddf", {"client-0000/002/weights", "public/001/teacher", "public/002/teacher", "public/002/cnn2-128-256"}),
])
def test_the_store_keeps_the_last_round_and_what_the_clients_agreed_on(strategy, kept, runs):
    names = set(runs[strategy].store.names())
    gone = {"client-0000/001/weights", "client-0000/001/logits", "public/001/cnn2-128-256"}
    assert kept <= names and not gone & names


def test_final_bytes_tell_any_changed_weight_consensus_or_metric(smoke):
    the_run = smoke("fedmd", **tiny("fedmd"))
    seen = [the_run.result["final_bytes"]]
    assert runner.final_bytes(the_run, the_run.store) == seen[0]
    for name, key in (("client-0001/002/weights", "linear.weight"), ("public/001/consensus", "logits")):
        tensors = the_run.store.get(name)
        tensors[key].view(-1)[0] += 1e-3
        the_run.store.put(name, tensors)
        seen.append(runner.final_bytes(the_run, the_run.store))
    file = next((the_run.folder / "records").iterdir())
    file.write_text(file.read_text().replace('"accuracy":0.', '"accuracy":0.0', 1))
    seen.append(runner.final_bytes(the_run, the_run.store))
    assert len(set(seen)) == 4


def test_final_bytes_know_no_time_and_no_order(fresh):
    before = runner.final_bytes(fresh, fresh.store)
    file = next((fresh.folder / "records").iterdir())
    rows = [json.loads(line) | {"started": 0.0, "seconds": 9.0, "peak_memory": 1} for line in file.open()]
    file.write_text("".join(json.dumps(row) + "\n" for row in reversed(rows)))
    assert runner.final_bytes(fresh, fresh.store) == before


def test_a_complete_run_is_only_read(fresh, monkeypatch):
    def snapshot():
        files = [path for path in fresh.folder.rglob("*") if path.is_file()]
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}

    before = snapshot()
    monkeypatch.setattr("kdlib.runs.invokers.INLINE.perform", lambda *_: pytest.fail("a Step was carried out"))
    assert repeat(fresh) == fresh and snapshot() == before


@pytest.mark.parametrize("torn", [0, 1, 50, -1])
def test_a_torn_last_line_is_dropped_and_its_step_repeated(torn, fresh, monkeypatch):
    whole = fresh.result["final_bytes"]
    file = next((fresh.folder / "records").iterdir())
    *lines, last = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines) + last[:torn])
    (fresh.folder / "result.json").unlink()
    assert len(fresh.records()) == len(lines)
    ran = []
    monkeypatch.setattr("kdlib.runs.invokers.INLINE.perform", lambda *args: ran.append(args[2]) or perform(*args))
    assert repeat(fresh).result["final_bytes"] == whole
    assert [step.name for step in ran] == ["evaluate"] and len(fresh.records()) == len(lines) + 1


def test_only_one_process_drives_a_run(tmp_path, monkeypatch):
    experiment = make_experiment("digits", "alone", 1.0, profile="smoke", **tiny("alone", rounds=1))
    altered.handlers(monkeypatch, "alone", evaluate=lambda *_: runner.run(experiment, tmp_path, progress=False))
    with pytest.raises(KdlibError, match="is being carried out by another process; wait for it or end it"):
        runner.run(experiment, tmp_path, progress=False)
    monkeypatch.undo()
    assert runner.run(experiment, tmp_path, progress=False).result, "the lock outlived its holder"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named_with_the_way_out(number, tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(number, os.strerror(number))

    experiment = make_experiment("digits", "alone", 1.0, profile="smoke", **tiny("alone", rounds=1))
    monkeypatch.setattr(fcntl, "flock", refused)  # as NFS without a lock service does
    with pytest.raises(KdlibError, match=r"gives no locks \(.+\).*allowed: a folder on a local disk") as error:
        runner.run(experiment, tmp_path, progress=False)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


@pytest.mark.parametrize("strategy", NAMES)
def test_again_gives_the_same_bytes(strategy, runs):
    the_run = runs[strategy]
    before = the_run.store.names()
    assert runner.again(the_run, progress=False) is True
    assert len(the_run.records(2)) == len(the_run.records()) and the_run.store.names() == before
    assert not list(the_run.folder.glob(".again*"))


def other_metric(patch):
    altered.handlers(patch, "alone", evaluate=lambda *args: {"accuracy": alone.evaluate(*args)["accuracy"] + 1e-9})


def other_weights(patch):
    save = client.save

    def nudged(store, name, model):
        with torch.no_grad():  # too small for any metric to show
            model.linear.weight.view(-1)[0] += 1e-6
        save(store, name, model)

    patch.setattr(alone, "save", nudged)


@pytest.mark.parametrize("change", [other_metric, other_weights])
def test_again_sees_another_metric_or_weight(change, fresh, monkeypatch):
    change(monkeypatch)
    assert runner.again(fresh, progress=False) is False
    monkeypatch.undo()
    assert runner.again(fresh, progress=False) is True
    assert len(fresh.records(3)) == len(fresh.records(2)) == len(fresh.records())


def test_again_sees_that_the_run_itself_was_damaged(fresh):
    name = next(name for name in fresh.store.names() if name.endswith("/weights"))
    fresh.store.put(name, {key: tensor + 1 for key, tensor in fresh.store.get(name).items()})
    assert runner.again(fresh, progress=False) is False


def test_again_wants_a_complete_run(fresh):
    (fresh.folder / "result.json").unlink()
    with pytest.raises(KdlibError, match="is not complete; run it to its end"):
        runner.again(fresh, progress=False)


def test_a_step_is_seeded_by_itself_alone(fresh):
    """Neither the global generator nor the Steps before it matter, and it leaves generator and threads as they were."""
    fresh.store.put("client-0000/001/weights", client.start(fresh.experiment, "client-0000").state_dict())
    step, threads = Step("train", 2, "client-0000"), torch.get_num_threads()
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        expected = torch.random.get_rng_state()
        perform(fresh.experiment, fresh.store, step)
        assert torch.equal(torch.random.get_rng_state(), expected)
        found.append(fresh.store.content("client-0000/002/weights"))
    assert found[0] == found[1]
    assert torch.get_num_threads() == threads


def test_a_run_begun_on_another_machine_is_said(fresh, caplog):
    path = fresh.folder / "machine.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"torch": "1.0.0"}))
    repeat(fresh)
    assert "was begun elsewhere (torch 1.0.0 there" in caplog.text


@pytest.mark.parametrize(("wanted", "said"), [(200, False), (201, True)])
def test_an_alignment_sample_that_is_capped_is_said_once(wanted, said, tmp_path, caplog):
    settings = tiny("feddf", rounds=1, public_items=200, alignment_items=wanted)
    runner.run(make_experiment("digits", "feddf", 1.0, profile="smoke", **settings), tmp_path, progress=False)
    assert caplog.text.count("has all 200 public items, as there are no 201") == said


def test_busy_seconds_leave_out_the_time_between_two_sessions(runs):
    record = runs["alone"].records()[0]
    times = [(100, 5), (102, 1), (104, 3), (500, 2)]  # side by side, overlapping, and after a gap
    records = [record.model_copy(update={"started": float(start), "seconds": float(seconds), "around": 0.0})
               for start, seconds in times]
    for order in itertools.permutations(records):
        assert run.busy_seconds(list(order)) == pytest.approx(7 + 2)


def test_a_store_elsewhere_holds_every_owners_objects_apart(runs, tmp_path):
    base = tmp_path / "elsewhere"
    the_run = runner.run(runs["fedavg"].experiment, tmp_path / "runs", progress=False, store=base.as_uri())
    assert the_run.result["final_bytes"] == runs["fedavg"].result["final_bytes"]
    assert not (the_run.folder / "store").exists()
    owners = {"aggregator", "private", "public", *the_run.experiment.client_names}
    assert {place.name for place in base.iterdir()} == owners
    assert (base / "private" / "client-0000" / the_run.key / "data.safetensors").exists()
    assert run.load(the_run.folder).store.names() == runs["fedavg"].store.names()
