"""A run's folder is anybody's data: what it holds is checked when it is read, and one line names the file."""

import json
import shutil
import subprocess
import sys
import zipfile

import pytest

import altered
from kdlib.errors import Damaged, KdlibError, Missing
from kdlib.reports.figures.tables import complete
from kdlib.reports.summary import summary
from kdlib.runs import archive, run, runner
from kdlib.strategies import fedmd

TINY = {"rounds": 2, "samples": 40, "local_epochs": 1, "test_items": 50}


@pytest.fixture(scope="module")
def whole(smoke):
    return smoke("alone", **TINY)


@pytest.fixture
def made(whole, tmp_path):
    """A copy of a complete run, which a test may spoil."""
    folder = tmp_path / "runs" / whole.key
    shutil.copytree(whole.folder, folder)
    return run.Run(folder, whole.experiment)


def everything(the_run):
    """Read all that there is, as `kdlib records`, `compare` and a notebook do."""
    again = run.load(the_run.folder)
    summary(again)
    return again.final, again.table, again.steps, again.partition


def changed(**changes):
    return lambda content: json.dumps(json.loads(content) | changes).encode()


JUNK = [b"", b"\xff\xfe\x00", b"junk", b"[]", b"null", b"[" * 100_000, b'{"a": 1}', b"{}\n{}", b"\x00" * 100]


@pytest.mark.parametrize("content", JUNK)
@pytest.mark.parametrize("name", ["experiment.json", "result.json", "records/inline-1.jsonl", "partition.parquet"])
def test_junk_is_one_line_that_names_the_file(name, content, made):
    everything(made)
    (made.folder / name).write_bytes(content if content.endswith(b"\n") else content + b"\n")
    with pytest.raises(KdlibError) as error:
        everything(made)
    assert str(made.folder / name) in str(error.value) or (content == b"" and "has no Step yet" in str(error.value))
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


@pytest.mark.parametrize("content", [*JUNK, None])
def test_a_machine_that_is_none_is_one_line(content, made):
    if content is None:
        (made.folder / "machine.json").unlink()
    else:
        (made.folder / "machine.json").write_bytes(content)
    if content == b'{"a": 1}':  # of an older kdlib
        runner.run(made.experiment, made.folder.parent, progress=False)
        return
    with pytest.raises(KdlibError, match=r"machine\.json") as error:
        runner.run(made.experiment, made.folder.parent, progress=False)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("changes", "says"), [
    ({"key": "f" * 16}, "is the result of another run"), ({"rounds": 3}, "is the result of another run"),
    ({"per_architecture": {"resnet8": 0.5}, "accuracy": 0.5}, "is the result of another run"),
    ({"accuracy": 9.3}, "is no result: accuracy"), ({"accuracy": 0.999}, "not the mean of its architectures'"),
    ({"accuracy": None}, "is no result: accuracy"), ({"per_architecture": {}}, "is no result: per_architecture"),
    ({"final_bytes": "x"}, "is no result: final_bytes"), ({"seconds": -1}, "is no result: seconds"),
    ({"winner": True}, "is no result: unknown setting 'winner'"),
])
def test_a_forged_result_is_refused(changes, says, made):
    path = made.folder / "result.json"
    path.write_bytes(changed(**changes)(path.read_bytes()))
    with pytest.raises(KdlibError, match=says) as error:
        everything(made)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_a_result_is_json_without_words_for_numbers(word, made):
    path = made.folder / "result.json"
    path.write_text(path.read_text().replace('"seconds": ', f'"seconds": {word}, "second": '))
    with pytest.raises(KdlibError, match=rf"result\.json is no JSON: {word} is no number of JSON"):
        everything(made)


@pytest.mark.parametrize(("forge", "says"), [
    (lambda line: line.replace('"run":"', '"run":"f'), "line 7 is no Record of this run: a Record is of run f"),
    (lambda line: line.replace('"accuracy":', '"accuracy":9.3,"acc":'), "measured an accuracy of 9.3"),
    (lambda line: line.replace('"accuracy":', '"round":99,"accuracy":'), "measured round, which"),
    (lambda line: line.replace('"seconds":', '"seconds":NaN,"second":', 1), "line 7 is no Record"),
    (lambda line: line.replace("client-0000", "client-9999"), "a Record is of client-9999"),
    (lambda line: line + "\n" + line, "has evaluate of client-0000 in round 1 twice"),
    (lambda line: line + "\n", "line 8 is no Record"), (lambda line: line + "\u2028" + line, "line 7 is no Record"),
])
def test_a_forged_record_is_refused(forge, says, made):
    path = made.folder / "records" / "inline-1.jsonl"
    lines = path.read_text().split("\n")
    assert '"step":"evaluate"' in lines[6]
    path.write_text("\n".join([*lines[:6], forge(lines[6]), *lines[7:]]))
    for read in (everything, lambda _: runner.again(made, progress=False)):
        with pytest.raises(KdlibError, match=says) as error:
            read(made)
        assert str(made.folder / "records") in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("forge", "says"), [
    (lambda table: table.drop(columns="items"), "has no column items"),
    (lambda table: table[table["client"] != "client-0000"], "is of other clients"),
    (lambda table: table.assign(client="client-0000"), "is of other clients"),
    (lambda table: table.assign(items=-table["items"]), "items has what is no count"),
    (lambda table: table.assign(items=table["items"] / 0.7), "items has what is no count"),
])
def test_a_forged_partition_is_refused(forge, says, made):
    forge(made.partition).to_parquet(made.folder / "partition.parquet")
    with pytest.raises(KdlibError, match=says) as error:
        everything(made)
    assert "partition.parquet" in str(error.value)


@pytest.mark.parametrize("content", [b"", b"\xff", b"file:///tmp", b"/", b"/tmp/{owner}/ffffffffffffffff",
                                     b"/tmp/{owner}/KEY\n", b"a\n/{owner}/KEY", b"\x1b[2J/{owner}/KEY"])
def test_a_store_elsewhere_is_this_runs(content, made):
    (made.folder / "store.url").write_bytes(content.replace(b"KEY", made.key.encode()))
    with pytest.raises(KdlibError, match=r"store\.url (names no store of this run; allowed|is no text)") as error:
        _ = made.store
    assert "\n" not in str(error.value)


def test_a_run_of_which_nothing_is_done_yet_has_empty_tables(made):
    (made.folder / "records" / "inline-1.jsonl").write_bytes(b"")
    assert made.table.empty and made.steps.empty
    (made.folder / "result.json").unlink()
    assert run.accuracy_by_architecture(made).empty


@pytest.mark.parametrize("lines", [0, 7, 13, 20])
def test_records_of_which_some_are_gone_do_not_make_a_curve(lines, made):
    path = made.folder / "records" / "inline-1.jsonl"
    path.write_text("\n".join(path.read_text().split("\n")[:lines]) + "\n" * bool(lines))
    with pytest.raises(KdlibError, match="records do not give the accuracies of result"):
        run.accuracy_by_architecture(made)


def test_a_damaged_run_does_not_hide_the_others(made, caplog):
    other = made.folder.parent / ("1" * 16)
    shutil.copytree(made.folder, other)
    assert [one.key for one in complete(made.folder.parent)] == [made.key]
    assert str(other / "result.json") in caplog.text and "is left out" in caplog.text


def test_the_command_line_says_it_in_one_line(made):
    (made.folder / "records" / "inline-1.jsonl").write_bytes(b"\xff\n")
    code = "import sys; from kdlib.cli.main import main; sys.argv[0] = 'kdlib'; main()"
    done = subprocess.run([sys.executable, "-c", code, "records", made.folder], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == "" and len(done.stderr.splitlines()) == 1
    assert "inline-1.jsonl is no text in UTF-8" in done.stderr


@pytest.mark.parametrize(("name", "content"), [
    ("result.json", b"{}"), ("result.json", b"\xff"), ("experiment.json", b"[]"), ("machine.json", b"junk"),
    ("records/inline-1.jsonl", b"{}\n"), ("records/inline-1.jsonl", b""), ("partition.parquet", b"PAR1"),
    ("partition.parquet", None), ("experiment.json", None),
])
def test_a_kept_run_is_read_before_it_is_laid_down(name, content, made, tmp_path):
    path = archive.keep(made, tmp_path / "kept")
    with zipfile.ZipFile(path) as file:
        members = {member: file.read(member) for member in file.namelist()} | {name: content}
    with zipfile.ZipFile(path, "w") as file:
        for member, own in members.items():
            if own is not None:
                file.writestr(member, own)
    with pytest.raises(KdlibError) as error:
        archive.restore(tmp_path / "kept", tmp_path / "restored")
    assert str(path) in str(error.value) and name.partition("/")[0] in str(error.value) and "\n" not in str(error.value)
    assert not list((tmp_path / "restored").glob("*"))


def test_an_encrypted_or_odd_zip_is_one_line(made, tmp_path):
    path = archive.keep(made, tmp_path / "kept")
    content = bytearray(path.read_bytes())
    start = content.index(b"PK\x01\x02")
    content[start + 8] |= 1  # says that the first member is encrypted
    path.write_bytes(content)
    with pytest.raises(KdlibError, match=r"is damaged or no \.zip file"):
        archive.restore(tmp_path / "kept", tmp_path / "restored")


def unfinished(the_run):
    """All Steps are done, and the process was killed before it wrote the result."""
    (the_run.folder / "result.json").unlink()
    return the_run


@pytest.mark.parametrize("gone", ["", "client-0001/002/weights.safetensors", "public/data.safetensors",
                                  "private/client-0002", "public/experiment.json"])
def test_a_run_whose_store_is_gone_is_not_complete(gone, made):
    path = unfinished(made).folder / "store" / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    (made.folder / "store").mkdir(exist_ok=True)  # where a volume would be mounted
    with pytest.raises(Missing, match=r"is not in .*; is the volume there"):
        runner.run(made.experiment, made.folder.parent, progress=False)
    assert not (made.folder / "result.json").exists()


def test_nor_can_it_be_compared(made):
    shutil.rmtree(made.folder / "store")
    (made.folder / "store").mkdir()
    with pytest.raises(Missing, match="is not in"):
        runner.again(made, progress=False)


def test_what_clients_agreed_on_in_an_early_round_is_part_of_a_complete_run(smoke, tmp_path, monkeypatch):
    settings = {"rounds": 3, "samples": 40, "public_items": 100, "alignment_items": 32, "test_items": 50,
                "pretrain_epochs": 1, "transfer_epochs": 1, "revisit_epochs": 1}
    seen = []

    def losing(experiment, store, round_, client):
        if round_ == 3 and not seen.append(client):
            store.delete("public/001/consensus")
        return fedmd.evaluate(experiment, store, round_, client)

    altered.handlers(monkeypatch, "fedmd", evaluate=losing)
    with pytest.raises(Missing, match="public/001/consensus is not in"):
        smoke("fedmd", **settings)
    assert seen


def test_a_run_of_which_an_object_was_spoilt_is_not_complete(made):
    path = unfinished(made).folder / "store/client-0001/002/weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff\x00")
    with pytest.raises(Damaged, match=r"client-0001/002/weights in .* is damaged: its checksum is wrong"):
        runner.run(made.experiment, made.folder.parent, progress=False)
    assert not (made.folder / "result.json").exists()


@pytest.mark.parametrize("content", ["", "[]", '{"task": "digits"}', None, "another"])
def test_a_run_whose_experiment_is_not_what_it_was_does_not_go_on(content, made):
    path = unfinished(made).folder / "experiment.json"
    if content == "another":
        content = made.experiment.model_copy(update={"learning_rate": 0.5}).model_dump_json()
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(KdlibError, match=r"experiment\.json"):
        runner.run(made.experiment, made.folder.parent, progress=False)
    assert not (made.folder / "result.json").exists()


@pytest.mark.parametrize("name", ["partition.parquet", "data.json", "machine.json"])
def test_a_run_goes_on_only_in_a_folder_that_can_be_read(name, made):
    (unfinished(made).folder / name).write_text("junk")
    with pytest.raises(KdlibError, match=name):
        runner.run(made.experiment, made.folder.parent, progress=False)
