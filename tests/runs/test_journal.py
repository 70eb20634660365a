"""Lines of Records: where one ends, what a kill or a power cut leaves, and what that costs."""

import os

import pytest

from kdlib.errors import KdlibError
from kdlib.runs import journal
from kdlib.runs.journal import Journal, whole_lines, write_whole


@pytest.mark.parametrize("inside", ["\x85", "\u2028", "\u2029", "\x0b", "\x1c", "\r"])
def test_a_line_ends_at_a_line_feed_alone(inside, tmp_path):
    with Journal(tmp_path / "records" / "a.jsonl") as lines:
        lines.add(f"one{inside}line")
        lines.add("two")
    assert whole_lines(tmp_path / "records" / "a.jsonl") == [f"one{inside}line", "two"]


def test_what_is_torn_is_cut_off_before_more_is_added(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"one\ntw")
    assert whole_lines(path) == ["one"] and path.read_bytes() == b"one\ntw"
    with Journal(path) as lines:
        lines.add("two")
    assert path.read_bytes() == b"one\ntwo\n"


def test_no_text_is_one_line(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"{}\n\xff\xfe\n")
    with pytest.raises(KdlibError, match=r"a\.jsonl is no text in UTF-8: .* at byte 3"):
        whole_lines(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").mkdir()
    with pytest.raises(KdlibError, match=r"cannot read .*b\.jsonl: Is a directory"):
        whole_lines(tmp_path / "b.jsonl")


def test_it_is_on_the_disk_at_the_end_and_not_for_every_line(tmp_path, monkeypatch):
    synced, real = [], os.fsync
    monkeypatch.setattr(journal.os, "fsync", lambda file: (synced.append(file), real(file)))
    with Journal(tmp_path / "a.jsonl") as lines:
        for number in range(500):
            lines.add(str(number))
        assert len(synced) <= 1, "as many short Steps take less than a second"
        assert len(whole_lines(tmp_path / "a.jsonl")) == 500, "a kill would lose some"
        before = len(synced)
        lines.sync()
        lines.sync()
        assert len(synced) == before + 1
        monkeypatch.setattr(journal, "SOON", -1.0)
        lines.add("late")
        assert len(synced) == before + 2
    assert len(synced) == before + 2


def test_a_file_is_written_whole_and_synced_with_its_folder(tmp_path, monkeypatch):
    synced, real = [], os.fsync
    monkeypatch.setattr(journal.os, "fsync", lambda file: (synced.append(os.fstat(file).st_ino), real(file)))
    write_whole(tmp_path / "a.json", "{}")
    assert (tmp_path / "a.json").read_text() == "{}" and [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert synced == [(tmp_path / "a.json").stat().st_ino, tmp_path.stat().st_ino]
