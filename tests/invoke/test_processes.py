"""Steps in processes of this machine: the same bytes, whatever dies on the way, and nobody left behind."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import spawn

import psutil
import pytest

from kdlib.errors import KdlibError
from kdlib.invoke import forkserver
from kdlib.invoke.invokers import Inline
from kdlib.invoke.perform import measured, perform
from kdlib.invoke.processes import Processes
from kdlib.runs import runner
from kdlib.settings.experiment import make_experiment
from kdlib.store.store import Store

TINY = {"profile": "smoke", "rounds": 1, "samples": 40, "architectures": ["cnn2-8-8", "cnn3-8-8-8"], "clients": 4}


def small(**settings):
    return make_experiment("digits", "feddf", 1.0, clients_per_round=4, **TINY | settings)


@pytest.fixture(scope="module", autouse=True)
def loaded():
    """What processes are forked from has its libraries."""
    forkserver.start()
    assert forkserver.wait(threading.Event())


@pytest.fixture(scope="module")
def pool():
    processes = Processes(2)
    yield processes
    processes.close()


@pytest.fixture(scope="module")
def inline(tmp_path_factory):
    return runner.run(small(), tmp_path_factory.mktemp("inline"), progress=False, invoker=Inline())


def test_it_ends_with_the_bytes_of_one_process(pool, inline, tmp_path):
    ran = runner.run(small(), tmp_path, progress=False, invoker=pool)
    assert ran.result["final_bytes"] == inline.result["final_bytes"]
    assert {record.backend for record in ran.records()} == {"processes"}
    assert [file.name for file in (ran.folder / "records").iterdir()] == ["processes-1.jsonl"]
    assert runner.again(ran, progress=False, invoker=pool)


@pytest.mark.parametrize("workers", [1, 4])
def test_the_bytes_are_the_same_for_any_number_of_workers(workers, inline, tmp_path):
    processes = Processes(workers)
    ran = runner.run(small(), tmp_path, progress=False, invoker=processes)
    assert len(processes._pool._processes) == workers
    processes.close()
    assert ran.result["final_bytes"] == inline.result["final_bytes"]


@pytest.mark.parametrize("after", [0, 1, 3])
def test_until_the_libraries_are_loaded_this_process_works_itself(after, pool, inline, tmp_path, monkeypatch):
    """They are after so many Steps. What is left of the Stage then goes to the others, while this one is at another."""
    own = []

    def noted(*arguments):
        own.append(arguments[2])
        return perform(*arguments)

    monkeypatch.setattr(forkserver, "ready", lambda: len(own) >= after)
    monkeypatch.setattr(pool, "perform", perform)
    monkeypatch.setattr("kdlib.invoke.processes.measured",
                        lambda _, *arguments: measured(noted, *arguments))
    ran = runner.run(small(), tmp_path, progress=False, invoker=pool)
    assert ran.result["final_bytes"] == inline.result["final_bytes"]
    assert len(own) == after and {record.backend for record in ran.records()} == {"processes"}


def test_where_they_are_never_loaded_it_works_alone_to_the_end(inline, tmp_path, monkeypatch):
    monkeypatch.setattr(forkserver, "ready", lambda: False)
    processes = Processes(2)
    ran = runner.run(small(), tmp_path, progress=False, invoker=processes)
    assert ran.result["final_bytes"] == inline.result["final_bytes"] and processes._pool is None


def test_a_step_that_fails_before_they_are_loaded_ends_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(forkserver, "ready", lambda: False)
    before = threading.active_count()
    with pytest.raises(KdlibError, match="there is no such thing"):
        runner.run(small(), tmp_path, progress=False, invoker=Processes(2, perform=fails))
    assert threading.active_count() == before


def test_a_process_that_dies_is_replaced_and_its_step_is_done_again(pool, inline, tmp_path):
    """All that there are, one after another, while the run goes on."""
    over = threading.Event()

    def kill():
        killed = set()
        while not over.wait(0.3) and len(killed) < 3:
            # None may be there at the moment.
            with contextlib.suppress(AttributeError, TypeError, StopIteration, ProcessLookupError):
                pid = next(iter(pool._pool._processes))
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)

    murderer = threading.Thread(target=kill)
    murderer.start()
    try:
        ran = runner.run(small(), tmp_path, progress=False, invoker=pool)
    finally:
        over.set()
        murderer.join()
    assert ran.result["final_bytes"] == inline.result["final_bytes"]


def dies(experiment, store, step):
    os.kill(os.getpid(), signal.SIGKILL)


def fails(experiment, store, step):
    raise KdlibError("there is no such thing; allowed: another")


def test_one_that_dies_each_time_ends_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("kdlib.invoke.processes.RETRIES", 1)
    processes = Processes(1, perform=dies)
    with pytest.raises(KdlibError, match=r"train of round 1 lost its processes 2 times; is there memory\?"):
        runner.run(small(), tmp_path, progress=False, invoker=processes)
    assert processes._pool is None


def test_a_mistake_of_a_step_comes_as_it_is(tmp_path):
    processes = Processes(1, perform=fails)
    with pytest.raises(KdlibError, match="there is no such thing; allowed: another"):
        runner.run(small(), tmp_path, progress=False, invoker=processes)
    processes.close()
    ran = runner.run(small(), tmp_path, progress=False, invoker=Inline())
    assert ran.result, "what was begun goes on by another invoker"


def test_a_store_in_memory_cannot_be_reached(pool):
    with pytest.raises(KdlibError, match="processes cannot reach memory://"):
        list(pool.run("0" * 16, small(), Store("memory://nobody"), []))


def test_other_threads_see_the_users_script_as_it_is(monkeypatch):
    """While processes begin, some library that is imported may look at it."""
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "__file__", "script.py", raising=False)
    monkeypatch.setattr(main, "__spec__", None)
    seen = []
    with forkserver.main_is_not_run_again():
        assert main.__file__ == "script.py"
        assert not [key for key in spawn.get_preparation_data("ours") if key.startswith("init_main")]
        other = threading.Thread(target=lambda: seen.append(spawn.get_preparation_data("another's")))
        other.start()
        other.join()
    assert [key for key in seen[0] if key.startswith("init_main")]
    assert seen[0].keys() == spawn.get_preparation_data("later").keys()


SCRIPT = """
import kdlib  # no guard: a new process must not begin with this script
from kdlib.invoke.processes import Processes

kdlib.run(kdlib.make_experiment("digits", "feddf", 1.0, profile="smoke", samples=40, local_epochs=200), "runs",
          progress=False, invoker=Processes(2))
"""


def test_all_end_with_a_script_that_is_killed(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    script = subprocess.Popen([sys.executable, "script.py"], cwd=tmp_path)
    processes, deadline = [], time.monotonic() + 120
    while len(processes) < 4 and time.monotonic() < deadline:  # the server, the tracker, two that work
        processes = psutil.Process(script.pid).children(recursive=True)
        assert script.poll() is None
        time.sleep(0.1)
    script.kill()
    script.wait()
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert len(processes) >= 4 and alive == []
