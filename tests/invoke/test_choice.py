"""What a run gets that asks for no Invoker: processes where that pays and works, inline elsewhere."""

import logging
import multiprocessing

import pytest

import kdlib
from kdlib import machine, registry
from kdlib.errors import KdlibError
from kdlib.invoke import choice, forkserver
from kdlib.invoke.choice import choose, room
from kdlib.runs import runner
from kdlib.runs.invokers import make_invoker
from kdlib.settings.experiment import make_experiment


def small(**settings):
    return make_experiment("digits", "alone", 1.0, profile="smoke", **{"rounds": 1, "samples": 20} | settings)


@pytest.fixture(autouse=True)
def eight(monkeypatch):
    """A machine of eight cores and 64 GiB."""
    monkeypatch.setattr(choice, "cores", lambda: 8)
    monkeypatch.setattr(choice, "free_memory", lambda: 64 * 2**30)
    monkeypatch.delenv(choice.MOST, raising=False)


@pytest.mark.parametrize(("free", "threads", "expected"), [(64, 1, 8), (64, 2, 4), (3, 1, 3), (0, 1, 1), (64, 16, 1)])
def test_as_many_as_cores_and_memory_allow(free, threads, expected, monkeypatch):
    monkeypatch.setattr(choice, "free_memory", lambda: free * 2**30)
    assert room(small(threads=threads)) == expected
    assert choose(small(threads=threads)) == ("inline" if expected == 1 else "processes")


def test_one_of_several_side_by_side_takes_its_share(monkeypatch):
    monkeypatch.setenv(choice.MOST, "3")
    assert room(small()) == 3
    monkeypatch.setenv(choice.MOST, "1")
    assert choose(small()) == "inline"
    for wrong in ("0", "two", "-1", ""):
        monkeypatch.setenv(choice.MOST, wrong)
        with pytest.raises(KdlibError, match=f"KDLIB_WORKERS is '{wrong}'; allowed: how many"):
            choose(small())


def test_the_number_that_is_asked_for_counts():
    assert choose(small(threads=16), workers=2) == "processes"
    assert choose(small(), workers=1) == "inline"


def test_a_gpu_is_one():
    assert choose(small().model_copy(update={"device": "cuda"})) == "inline"


def test_what_only_this_process_knows_stays_here(plugin):
    kdlib.register_network("own_flat", lambda num_classes: None)
    assert choose(small().model_copy(update={"architectures": ("own_flat",)})) == "inline"
    file = plugin("known", "import kdlib\nkdlib.register_network('known_flat', lambda num_classes: None)\n")
    registry.load(str(file))
    assert choose(small().model_copy(update={"architectures": ("known_flat",)})) == "processes"


def test_without_processes_to_fork_it_is_said_once_and_done_here(caplog, monkeypatch, tmp_path):
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    with caplog.at_level(logging.WARNING):
        ran = runner.run(small(), tmp_path, progress=False)
    assert caplog.messages == ["kdlib: no process can be forked from here; Steps run one after another"]
    assert {record.backend for record in ran.records()} == {"inline"}
    with pytest.raises(KdlibError, match="can be forked from here; allowed: --invoker inline, or ray"), \
            make_invoker("processes"):
        pass


def test_a_run_that_asks_for_nothing_goes_side_by_side(tmp_path, monkeypatch):
    monkeypatch.setenv(choice.MOST, "2")
    ran = runner.run(small(), tmp_path, progress=False)
    assert {record.backend for record in ran.records()} == {"processes"}
    assert runner.again(ran, progress=False)
    assert len(list((ran.folder / "records").glob("processes-2.jsonl"))) == 1


def _chosen_in_a_daemon(answers):
    answers.put(choose(small(), workers=2))


def test_a_process_that_may_have_no_children_works_itself():
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    child = context.Process(target=_chosen_in_a_daemon, args=(answers,), daemon=True)
    child.start()
    assert answers.get(timeout=120) == "inline"
    child.join()


def _chosen_in_a_fork(answers):
    answers.put(choose(small(), workers=2))


def test_a_process_forked_from_one_that_has_a_server_works_itself():
    forkserver.start()
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    child = context.Process(target=_chosen_in_a_fork, args=(answers,))
    child.start()
    assert answers.get() == "inline"
    child.join()


@pytest.mark.parametrize(("files", "expected"), [
    ({}, 6), ({"cpu.max": "max 100000"}, 6), ({"cpu.max": "250000 100000"}, 2), ({"cpu.max": "50000 100000"}, 1),
    ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
    ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 6)])
def test_a_containers_share_of_the_cores_counts(files, expected, monkeypatch):
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(6)))
    there = {f"/sys/fs/cgroup/{name}": [text] for name, text in files.items()}
    monkeypatch.setattr(machine, "_lines", lambda path: there.get(path, []))
    assert machine.cores() == expected


def test_nothing_begins_early_that_nobody_needs(monkeypatch):
    began = []
    monkeypatch.setattr(forkserver, "start", lambda: began.append(True))
    for name, workers in (("inline", None), ("ray", 2), ("http", None), ("auto", 1)):
        choice.foresee(name, workers)
    assert began == []
    for name, workers in (("auto", None), ("auto", 2), ("processes", 1)):
        choice.foresee(name, workers)
    assert len(began) == 3
