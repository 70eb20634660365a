import zipfile

import pandas as pd
import pytest

from kdlib.errors import KdlibError
from kdlib.runs import archive, run, runner


@pytest.fixture(scope="module")
def made(smoke):
    return smoke("alone", rounds=1)


def test_a_kept_run_is_read_like_the_one_it_was(made, tmp_path):
    path = archive.keep(made, tmp_path / "records")
    assert [file.name for file in path.parent.iterdir()] == [f"{made.key}.zip"]
    assert archive.restore(tmp_path / "records", tmp_path / "runs") == [made.key]
    again = run.load(tmp_path / "runs" / made.key)
    assert again.result == made.result and again.experiment == made.experiment
    assert again.records() == made.records()
    pd.testing.assert_frame_equal(again.partition, made.partition)
    assert runner.run(made.experiment, tmp_path / "runs", progress=False).result == made.result, "it is not run again"
    assert not (again.folder / "store").exists()


def test_a_kept_run_can_be_repeated_and_compared(made, tmp_path):
    archive.keep(made, tmp_path)
    archive.restore(tmp_path, tmp_path / "runs")
    assert runner.again(run.load(tmp_path / "runs" / made.key), progress=False) is True


def test_equal_records_give_equal_archives_and_what_is_there_stays(made, tmp_path):
    first = archive.keep(made, tmp_path).read_bytes()
    assert archive.keep(made, tmp_path).read_bytes() == first
    assert archive.restore(tmp_path, made.folder.parent) == [], "the run itself is there"


def test_an_unfinished_run_is_not_kept(made, tmp_path):
    archive.keep(made, tmp_path)
    archive.restore(tmp_path, tmp_path / "runs")
    (tmp_path / "runs" / made.key / "result.json").unlink()
    with pytest.raises(KdlibError, match="is not complete; run it to its end before keeping it"):
        archive.keep(run.load(tmp_path / "runs" / made.key), tmp_path)


@pytest.mark.parametrize("member", ["../result.json", "/result.json", "records/../../x.jsonl", "store/a", "run.py"])
def test_a_strange_member_is_refused_and_nothing_is_written(member, tmp_path):
    with zipfile.ZipFile(tmp_path / f"{'0' * 16}.zip", "w") as file:
        file.writestr("result.json", "{}")
        file.writestr(member, "{}")
    with pytest.raises(KdlibError, match="it is no kept run"):
        archive.restore(tmp_path, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_another_name_or_a_torn_file_is_one_clear_line(made, tmp_path):
    path = archive.keep(made, tmp_path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(KdlibError, match=r"damaged or no \.zip file"):
        archive.restore(tmp_path, tmp_path / "runs")
    path.rename(tmp_path / "mine.zip")
    with pytest.raises(KdlibError, match="named by no run's key; allowed: 16 hexadecimal digits"):
        archive.restore(tmp_path, tmp_path / "runs")
    assert list((tmp_path / "runs").glob("*")) == []
