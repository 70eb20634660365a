"""Functions on this machine, as processes: federations through them, what each may see, and that nothing stays."""

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

import forked
from faas.__main__ import app
from faas.cluster.access import folders
from faas.function.confinement import possible
from functions import ROOT, Function, await_ready, deployed, tiny
from kdlib.errors import KdlibError
from kdlib.invoke.http import Endpoints, Http
from kdlib.invoke.tokens import AGGREGATOR
from kdlib.runs import runner
from kdlib.settings.experiment import make_experiment

STRATEGIES = ("fedmd", "feddf")
CLIENTS = tuple(f"client-{index:04}" for index in range(6))
SUBJECTS = (*CLIENTS, AGGREGATOR)

# What code that runs in a function might try: it prints what became of it. {0}: the folder; {1}: a neighbour's process.
HOSTILE = """
import ctypes, json, os, sys
from pathlib import Path
from faas.function.confinement import confine, libc, NEW_MOUNTS, NEW_USER
folder, peer, reads, writes = Path(sys.argv[1]), sys.argv[2], sys.argv[3].split(","), sys.argv[4].split(",")
victims = [str(path) for path in folder.glob("store/*client-0001/**/*.safetensors")]
victims += [str(path) for path in folder.glob("store/aggregator/**/*.safetensors")] + [f"{folder}/endpoints.key"]
own = next(folder.glob("store/private/client-0000/*/data.safetensors"))
opened = [os.open(folder / place, os.O_RDONLY) for place in ("store", "store/private/client-0001")]
confine(folder, reads, writes)

def attempt(call, *arguments):
    try:
        return ["done", str(call(*arguments))[:40]]
    except OSError as error:
        return ["refused", error.strerror]

def system(number):
    if number:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

said = {f"read {path}": attempt(Path(path).read_bytes) for path in victims}
said |= {f"through {place}": attempt(os.listdir, f"{place}{folder}/store/private/client-0001")
         for place in (f"/proc/{peer}/root", "/proc/1/root", f"/proc/{os.getppid()}/root")}
said |= {f"from the working directory {place}": attempt(os.listdir, place)
         for place in ("store/private/client-0001", "private/client-0001", "client-0001", "../private/client-0001",
                       "../store/private/client-0001", "/proc/self/cwd/store/private/client-0001")}
said |= {f"through what was open, {number}": attempt(os.listdir, number) for number in opened}
said |= {f"write {path}": attempt(Path(path).write_text, "x") for path in (
    own, folder / "store/public/new", folder / "store/new", folder / "new", Path.home() / "new", "/etc/new")}
cover, public = os.fsencode(folder), os.fsencode(folder / "store/public")
said["unmount"] = attempt(lambda: system(libc.umount2(cover, 2)))
libc.unshare(NEW_USER | NEW_MOUNTS)  # a namespace of its own, in which it may do everything
said["unmount from a namespace of its own"] = attempt(lambda: system(libc.umount2(cover, 2)))
said["remount from there"] = attempt(lambda: system(libc.mount(None, public, None, 4128, None)))
allowed = {"read": attempt(own.read_bytes), "write": attempt((folder / "store/client-0000/new").write_text, "x")}
print(json.dumps([said, allowed]))
"""


def faas(*arguments):
    return forked.run("faas", *arguments, cwd=ROOT, environment=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=600)


def supervisor(folder):
    return psutil.Process(int((folder / "supervisor.pid").read_text()))


def processes(folder):
    """Subject -> one of its functions' processes."""
    return {process.environ()["KDLIB_SUBJECT"]: process for process in supervisor(folder).children()}


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """The folder of the functions for a smoke run: six clients, three aggregators."""
    folder = tmp_path_factory.mktemp("local") / "functions"
    experiment = folder.with_suffix(".json")
    experiment.write_text(make_experiment("digits", "fedmd", 1.0, profile="smoke").model_dump_json())
    started = faas("up", "--process", "--experiment", experiment, "--folder", folder)
    assert started.returncode == 0, started.stderr
    yield folder
    assert faas("down", "--folder", folder).returncode == 0


@pytest.fixture(scope="module")
def federations(local, tmp_path_factory):
    """strategy -> the smoke run by those functions."""
    runs = tmp_path_factory.mktemp("runs")
    with contextlib.closing(Http.from_file(local / "endpoints.json")) as http:
        return {strategy: runner.run(make_experiment("digits", strategy, 1.0, profile="smoke"), runs, False, http)
                for strategy in STRATEGIES}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_federation_of_processes_ends_with_the_bytes_of_one_process(strategy, federations, common):
    records = federations[strategy].records()
    assert federations[strategy].result["final_bytes"] == common(strategy).result["final_bytes"]
    assert {record.backend for record in records} == {"http"} and all(record.around > 0 for record in records)
    assert all(record.peak_memory > 2**27 for record in records)


def test_each_function_sees_its_own_part_of_the_store_and_no_other(federations, local):
    if reason := possible(local):
        pytest.skip(f"this system lets no process have a view of its own: {reason}")
    keys = {the_run.key for the_run in federations.values()}
    for subject, process in processes(local).items():
        store = Path(f"/proc/{process.pid}/root{local}/store")  # as that very process has it
        mine = folders(subject, CLIENTS)
        for owner in (*SUBJECTS, *(f"private/{client}" for client in CLIENTS), "public"):
            planted = store / owner / "planted"
            assert (store / owner).is_dir() == (owner in mine), (subject, owner)
            if owner not in mine:
                with pytest.raises(FileNotFoundError):
                    planted.touch()
            elif mine[owner]:
                planted.touch()
                planted.unlink()
            else:
                assert {path.name for path in (store / owner).iterdir()} == keys
                with pytest.raises(OSError, match="Read-only file system"):
                    planted.touch()


@pytest.mark.parametrize("working_directory", [str(ROOT), "{local}", "{local}/store", "{local}/store/private",
                                               "{local}/store/private/client-0001", "{local}/log"])
def test_hostile_code_in_a_function_is_refused_by_the_system(working_directory, federations, local):
    if reason := possible(local):
        pytest.skip(f"this system lets no process have a view of its own: {reason}")
    mine = folders("client-0000", CLIENTS)
    tried = subprocess.run(
        [sys.executable, "-c", HOSTILE, local, str(processes(local)["client-0001"].pid), ",".join(mine), "client-0000"],
        cwd=working_directory.format(local=local), env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True,
        text=True)
    assert tried.returncode == 0, tried.stderr
    said, allowed = json.loads(tried.stdout)
    (local / "store" / "client-0000" / "new").unlink()
    assert {name: outcome for name, outcome in said.items() if outcome[0] != "refused"} == {}
    assert sum(name.startswith("read") for name in said) >= 5 and [outcome[0] for outcome in allowed.values()] == [
        "done", "done"]


def test_functions_that_were_started_from_within_their_folder_have_the_view_for_a_working_directory(local, tmp_path):
    if reason := possible(local):
        pytest.skip(f"this system lets no process have a view of its own: {reason}")
    folder = tmp_path / "functions"
    folder.mkdir()
    started = forked.run("faas", "up", "--process", "--clients", "2", "--folder", ".", cwd=folder,
                         environment=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=600)
    try:
        assert started.returncode == 0, started.stderr
        for subject, process in processes(folder).items():
            through = Path(f"/proc/{process.pid}/cwd")
            mine = {owner for owner in folders(subject, CLIENTS[:2]) if owner.startswith("private/")}
            seen = {f"private/{path.name}" for path in (through / "store").glob("private/*")}
            assert seen == mine and not (through / "endpoints.key").exists(), subject
            assert not [path for path in Path(f"/proc/{process.pid}/fd").iterdir()
                        if str(path.readlink()).startswith(f"{folder}/store")]
    finally:
        assert faas("down", "--folder", folder).returncode == 0


def test_a_function_that_was_killed_is_there_again_at_the_same_address(federations, local):
    there = Endpoints.model_validate_json((local / "endpoints.json").read_bytes())
    process = processes(local)["client-0002"]
    process.kill()
    process.wait()
    await_ready(there.functions["client-0002"].url)
    assert processes(local)["client-0002"].pid != process.pid
    assert "client-0002 ended: killed, by its memory limit or by hand" in (local / "log/supervisor.log").read_text()


def test_the_key_is_for_its_owner_alone_and_stands_in_no_list_of_processes(local):
    key = (local / "endpoints.key").read_text()
    for name in ("endpoints.key", "endpoints.json"):
        assert stat.S_IMODE((local / name).stat().st_mode) == 0o600
    assert not any(key in word for process in psutil.process_iter(["cmdline"])
                   for word in process.info["cmdline"] or ())
    assert not any(key in path.read_text() for path in (local / "log").iterdir())


def test_supervisor_and_functions_find_the_sources_that_started_them(local):
    for process in (supervisor(local), *supervisor(local).children()):
        first = process.environ()["PYTHONPATH"].split(os.pathsep)[0]
        assert (Path(first) / "faas" / "local" / "supervisor.py").is_file(), process.cmdline()


def test_a_second_up_in_the_folder_is_refused(local):
    again = faas("up", "--clients", "1", "--folder", local)
    assert again.returncode == 2 and "functions are up already in" in again.stderr
    assert len(processes(local)) == 7


def test_down_ends_all_and_leaves_what_was_written(tmp_path):
    folder = tmp_path / "functions"
    assert faas("up", "--clients", "1", "--folder", folder).returncode == 0
    there = Endpoints.model_validate_json((folder / "endpoints.json").read_bytes())
    (folder / "store" / "client-0000" / f"torn.{'0' * 32}.part").touch()
    before = [supervisor(folder), *supervisor(folder).children()]
    down = faas("down", "--folder", folder)
    assert (down.returncode, down.stdout) == (0, "the functions are down\n")
    assert psutil.wait_procs(before, 10)[1] == []
    assert sorted(path.name for path in folder.iterdir()) == ["log", "store"]
    assert [path for path in (folder / "store").rglob("*") if path.is_file()] == []
    for endpoint in there.functions.values():
        socket.create_server(("127.0.0.1", int(endpoint.url.rpartition(":")[2]))).close()
    assert "has no functions" in faas("down", "--folder", folder).stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_functions_die_with_their_supervisor_however_it_ends(number, tmp_path):
    folder = tmp_path / "functions"
    assert faas("up", "--clients", "1", "--folder", folder).returncode == 0
    before = [supervisor(folder), *supervisor(folder).children()]
    before[0].send_signal(number)
    assert psutil.wait_procs(before, 20)[1] == []
    down = faas("down", "--folder", folder)
    assert (down.returncode, down.stdout) == (0, f"no functions were up in {folder}\n")
    assert sorted(path.name for path in folder.iterdir()) == ["log", "store"]


def test_a_limit_that_cannot_be_met_is_told_and_nothing_stays(tmp_path):
    values = tmp_path / "values.toml"
    values.write_text("[client]\nmemory = 0.5\n")
    experiment = tmp_path / "experiment.json"
    experiment.write_text(make_experiment("digits", "fedmd", 1.0, profile="smoke").model_dump_json())
    started = faas("up", "--experiment", experiment, "--values", values, "--folder", tmp_path / "functions")
    assert started.returncode == 2 and len(started.stderr.splitlines()) == 1
    assert "needs" in started.stderr and not (tmp_path / "functions").exists()


def test_a_step_that_needs_more_than_its_function_may_have_is_told_so(tmp_path):
    experiment = tiny("feddf", width=1.0, architectures=("cnn2-128-512", "cnn3-64-128-256"), batch=256, samples=200)
    deployed(f"{tmp_path}/store/{{owner}}", experiment)
    with Function("client-0000", f"file://{tmp_path}/store/{{owner}}", tmp_path / "log",
                  (sys.executable, "-m", "faas.function.server", "--memory", "500")) as function:
        answer = function.step("train", 1)
        assert answer.status_code == 507, answer.text
        assert answer.json() == {"error": "the Step needs more memory than this function may have"}
        assert function.client.get("/health/liveness").status_code == 200


@pytest.mark.parametrize(("arguments", "said"), [
    ([], "how many clients?"),
    (["--clients", "0"], "--clients"),
    (["--clients", "3", "--port", "70000"], "--port"),
    (["--clients", "3", "--port", "65534"], "allowed: a --port from which 4 are free, or 0 for any"),
    (["--clients", "3", "--experiment", "{smoke}"], "the experiment has 6"),
    (["--experiment", "absent.json"], "absent.json"),
    (["--experiment", "{text}"], "not an experiment"),
    (["--clients", "3", "--store", "/tmp"], "allowed: s3://BUCKET/PREFIX"),
    (["--clients", "3", "--credentials", "{text}"], "--credentials are for a store in S3"),
    (["--clients", "3", "--store", "s3://b", "--credentials", "{text}"], "holds no credentials"),
    (["--clients", "1", "--store", "s3://b", "--credentials", "{one}"], "has no credentials of aggregator"),
    (["--clients", "3", "--folder", "{busy}"], "holds notes.txt"),
    (["--clients", "3", "--folder", "{brace}"], "allowed: a path without braces"),
    (["--clients", "3", "--values", "absent.toml"], "absent.toml"),
    (["--clients", "3", "--docker", "--image", "no such image"], "image"),
])
def test_a_mistake_is_one_line_and_nothing_is_written(arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = {"smoke": make_experiment("digits", "fedmd", 1.0, profile="smoke").model_dump_json(), "text": "text",
             "one": json.dumps({"client-0000": {}})}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "busy").mkdir()
    (tmp_path / "busy" / "notes.txt").touch()
    before = sorted(tmp_path.rglob("*"))
    filled = [word.format(brace=tmp_path / "a{b", busy="busy", **{name: name for name in files}) for word in arguments]
    with pytest.raises(Exception) as error:  # noqa: PT011  # typer's, a file's or ours: what it says is looked at below
        app(["up", *filled], standalone_mode=False)
    message = str(error.value) if isinstance(error.value, KdlibError | OSError) else error.value.format_message()
    assert said in message and "\n" not in message.strip()
    assert sorted(tmp_path.rglob("*")) == before
