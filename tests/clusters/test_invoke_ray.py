"""Steps on a real Ray, here and on a cluster of two nodes: the bytes of inline, whoever dies on the way."""

import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import psutil
import pytest

from kdlib import registry
from kdlib.errors import KdlibError
from kdlib.invoke import ray as invoke_ray
from kdlib.invoke import worker
from kdlib.invoke.perform import perform
from kdlib.invoke.ray import Ray, ray
from kdlib.invoke.steps import Stage, Step
from kdlib.registry import STRATEGIES
from kdlib.runs import runner
from kdlib.settings.experiment import make_experiment
from kdlib.store.store import Store

TINY = {"rounds": 2, "samples": 40, "local_epochs": 1, "revisit_epochs": 1, "pretrain_epochs": 1,
        "transfer_epochs": 1, "distil_batches": 4, "score_every": 2, "public_items": 200, "alignment_items": 64,
        "test_items": 100}
BYSTANDERS: set[int] = set()  # processes that other tests of this worker left running
ONE = Stage("train", ("client-0001",), 1)


def small(strategy, **settings):
    fields = STRATEGIES.find(strategy).value.settings.model_fields
    own = {name: value for name, value in TINY.items() if name in fields}
    return make_experiment("digits", strategy, 1.0, profile="smoke", **own | settings)


@pytest.fixture(scope="module", autouse=True)
def nothing_left():
    """Ray's folders lie below /tmp, as a socket's path has 107 bytes at most; neither they nor any process stay."""
    BYSTANDERS.update(process.pid for process in psutil.Process().children(recursive=True))
    folder = tempfile.mkdtemp(prefix="kdlib-", dir="/tmp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        yield folder
    left = [process.name() for process in below()]
    shutil.rmtree(folder)
    assert left == []


def below():
    """All processes that this one, or one of those, started since these tests began."""
    return [process for process in psutil.Process().children(recursive=True) if process.pid not in BYSTANDERS]


def all_end(processes):
    _, alive = psutil.wait_procs(processes, timeout=30)
    return not alive


@pytest.fixture(scope="module")
def here(nothing_left):
    """Ray on this machine with two workers, which starts at the first Step, and again after a close()."""
    invoker = Ray(workers=2)
    yield invoker
    invoker.close()


@pytest.fixture(scope="module")
def inline(tmp_path_factory):
    """strategy -> final bytes of the inline run."""
    folder = tmp_path_factory.mktemp("inline")
    return {strategy: runner.run(small(strategy), folder, progress=False).result["final_bytes"]
            for strategy in ("fedmd", "feddf")}


@pytest.mark.parametrize("strategy", ["fedmd", "feddf"])
def test_two_workers_end_with_the_bytes_of_inline(strategy, here, inline, tmp_path):
    the_run = runner.run(small(strategy), tmp_path, progress=False, invoker=here)
    assert the_run.result["final_bytes"] == inline[strategy]
    assert [file.name for file in (the_run.folder / "records").iterdir()] == ["ray-1.jsonl"]
    assert {record.backend for record in the_run.records()} == {"ray"}
    assert ray.cluster_resources()["CPU"] == 2


def test_workers_have_imported_what_a_step_needs_before_the_first_comes(here):
    def imported():
        return [name for name in ("kdlib.invoke.perform", "kdlib.learning.training") if name in sys.modules]

    here.close()
    here.start(1)
    assert ray.get(ray.remote(imported).remote()) == ["kdlib.invoke.perform", "kdlib.learning.training"]


@pytest.mark.parametrize(("task", "largest"), [("digits", "cnn2-128-512"), ("shakespeare", "lstm2-256")])
def test_the_largest_models_steps_go_first(task, largest):
    experiment = make_experiment(task, "feddf", profile="laptop")
    steps = [Step("teach", 1, "server"), *Stage("train", experiment.client_names, 1).steps]
    order = worker.largest_first(experiment, steps)
    subjects = [steps[number].subject for number in order]
    assert sorted(order) == list(range(len(steps))) and subjects[-1] == "server"
    of_largest = [name for name in experiment.client_names if experiment.architecture_of(name) == largest]
    assert subjects[: len(of_largest)] == of_largest and len(of_largest) >= 2


def test_a_fused_round_ends_with_the_bytes_of_inline(here, inline, tmp_path):
    the_run = runner.run(small("fedmd"), tmp_path, progress=False, invoker=here, fused=True)
    assert the_run.result["final_bytes"] == inline["fedmd"]


def test_ray_repeats_an_inline_run_and_the_reverse(here, inline, tmp_path):
    by_inline = runner.run(small("feddf"), tmp_path / "inline", progress=False)
    assert runner.again(by_inline, progress=False, invoker=here) is True
    by_ray = runner.run(small("feddf"), tmp_path / "ray", progress=False, invoker=here)
    assert runner.again(by_ray, progress=False) is True


PLUGIN = """
import torch
from kdlib.registry import NETWORKS

def flat(num_classes):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(28 * 28, num_classes))

NETWORKS.register("flat", flat)
"""


def test_what_the_driver_was_told_to_import_its_workers_import_too(here, plugin, tmp_path):
    path = plugin("nets", PLUGIN)
    registry.load(str(path))
    experiment = small("feddf", architectures=["flat", "nets:flat"], clients=2, clients_per_round=2)
    by_ray = runner.run(experiment, tmp_path / "ray", progress=False, invoker=here)
    assert runner.run(experiment, tmp_path, progress=False).result["final_bytes"] == by_ray.result["final_bytes"]
    path.write_text(PLUGIN + "# changed since\n")
    here.close()  # for workers that have not imported it yet
    with pytest.raises(KdlibError, match=r"network (nets:)?flat is another version here than where the run was"):
        list(here.run("key", experiment, by_ray.store, ONE.steps))


def test_a_handlers_complaint_is_one_line_and_the_run_goes_on(here, inline, tmp_path, monkeypatch):
    def complains(experiment, store, step):
        if step.name == "distil" and step.round == 2:
            raise KdlibError(f"{step.subject} is unwell; allowed: health")
        return perform(experiment, store, step)

    monkeypatch.setattr(here, "perform", complains)
    with pytest.raises(KdlibError, match=r"^cnn\S+ is unwell; allowed: health$") as error:
        runner.run(small("feddf"), tmp_path, progress=False, invoker=here)
    assert type(error.value) is KdlibError
    monkeypatch.undo()
    assert runner.run(small("feddf"), tmp_path, progress=False, invoker=here).result["final_bytes"] == inline["feddf"]


def test_a_worker_killed_in_mid_stage_is_made_good(here, inline, tmp_path, monkeypatch):
    died = tmp_path / "died"

    def dies_once(experiment, store, step):
        parts = perform(experiment, store, step)
        if step[:2] == ("train", 2) and step.subject == "client-0001" and not died.exists():
            died.write_text(str(os.getpid()))  # its work is in the store, its Record is lost
            os.kill(os.getpid(), signal.SIGKILL)
        return parts

    monkeypatch.setattr(here, "perform", dies_once)
    the_run = runner.run(small("feddf"), tmp_path, progress=False, invoker=here)
    assert died.exists() and the_run.result["final_bytes"] == inline["feddf"]
    steps = [step for record in the_run.records() for step in record.done]
    assert len(set(steps)) == len(steps)


def test_a_step_that_always_loses_its_worker_is_told_in_one_line(here, tmp_path, monkeypatch):
    def dies(experiment, store, step):
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(here, "perform", dies)
    monkeypatch.setattr(invoke_ray, "RETRIES", 1)
    with pytest.raises(KdlibError, match="train of client-0001 in round 1 lost its worker 2 times") as error:
        list(here.run("key", small("feddf"), Store(str(tmp_path)), ONE.steps))
    assert "\n" not in str(error.value)


def test_more_threads_than_a_node_has_cpus_are_refused(here, tmp_path):
    here.start(1)
    with pytest.raises(KdlibError, match=r"no node of the Ray cluster has 3 CPUs.*allowed: fewer threads"):
        list(here.run("key", small("feddf", threads=3), Store(str(tmp_path)), ONE.steps))


def test_a_store_in_memory_is_refused_before_anything_starts():
    invoker = Ray()
    with pytest.raises(KdlibError, match="cannot reach memory://store; allowed: a folder or an object store"):
        list(invoker.run("key", small("feddf"), Store("memory://store"), ONE.steps))
    assert invoker.task is None


def test_close_ends_all_that_was_started_and_a_second_start_works(here, inline, tmp_path):
    here.start(1)
    started = below()
    assert "raylet" in {process.name() for process in started}
    for _ in range(2):
        here.close()
    assert all_end(started) and not ray.is_initialized()

    one = Ray(workers=1)
    for strategy in ("fedmd", "feddf"):
        the_run = runner.run(small(strategy), tmp_path, progress=False, invoker=one)
        assert the_run.result["final_bytes"] == inline[strategy]
        spans = sorted((record.started, record.started + record.seconds) for record in the_run.records())
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans)), "one at a time"
    started = below()
    one.close()
    assert all_end(started)


def test_it_listens_on_loopback_alone(here):
    here.start(1)
    ray.get(ray.remote(lambda: os.getpid()).remote())
    listening = {connection.laddr.ip for process in (psutil.Process(), *below())
                 for connection in process.net_connections() if connection.status == psutil.CONN_LISTEN}
    assert listening and {address.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}


def test_a_ray_that_died_is_one_line_and_the_same_command_goes_on(here, tmp_path, monkeypatch):
    def takes_the_raylet_along(experiment, store, step):
        psutil.Process(os.getppid()).kill()
        time.sleep(600)  # nothing comes of the Step; one that is stopped goes on when its parent is gone

    monkeypatch.setattr(here, "perform", takes_the_raylet_along)
    with pytest.raises(KdlibError, match=r"^Ray ended before the Step did; the same command starts it anew") as error:
        list(here.run("key", small("feddf"), Store(str(tmp_path)), ONE.steps))
    assert "\n" not in str(error.value)
    monkeypatch.undo()
    here.start(1)
    assert ray.get(ray.remote(lambda: os.getpid()).remote()) != os.getpid()


ALONE = """
import sys
from kdlib.errors import KdlibError
from kdlib.invoke.ray import Ray, ray
if "before" in sys.argv:
    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
try:
    Ray(workers=1).start(1)
except KdlibError as error:
    print(error)
"""


@pytest.mark.parametrize(("environment", "argument", "says"), [
    ({"RAY_TMPDIR": "{long}"}, "", "allowed: a RAY_TMPDIR, or TMPDIR, of 39 bytes at most"),
    ({"TMPDIR": "{long}", "RAY_TMPDIR": None}, "", "allowed: a RAY_TMPDIR, or TMPDIR, of 39 bytes at most"),
    ({"HOME": "/etc/hostname"}, "", "allowed: a HOME for Ray's token"),
    ({"RAY_TMPDIR": "/proc/nowhere"}, "", "a RAY_TMPDIR, or TMPDIR, in which this user can write"),
    ({}, "before", "Ray is in use in this process already"),
])
def test_what_will_not_pass_is_not_said_to_pass(environment, argument, says, tmp_path):
    long = tmp_path / ("x" * 100)
    long.mkdir()
    own = {name: value and value.format(long=long) for name, value in environment.items()}
    whole = {name: value for name, value in (os.environ | own).items() if value is not None}
    told = subprocess.run([sys.executable, "-c", ALONE, argument], env=whole, capture_output=True, text=True,
                          timeout=100)
    (line,) = told.stdout.splitlines()
    assert says in line and "busy" not in line and "tries again" not in line, line


TRY = """
import sys
from kdlib.errors import KdlibError
from kdlib.invoke.ray import Ray
for address in sys.argv[1:]:
    try:
        Ray(address).start(1)
    except KdlibError as error:
        print(error)
"""


def test_an_address_where_no_cluster_is_is_told_in_one_line():
    with socket.socket() as taken:  # and given back: nobody listens at that port
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    addresses = [f"127.0.0.1:{port}", f"no-such-host.invalid:{port}", "127.0.0.1:99999", "127.0.0.1:x", "127.0.0.1",
                 "nonsense"]
    # In a process of its own, as Ray by itself tries for minutes and then ends the process.
    told = subprocess.run([sys.executable, "-c", TRY, *addresses], capture_output=True, text=True, timeout=100)
    lines = told.stdout.splitlines()
    assert len(lines) == len(addresses) and told.returncode == 0, told.stderr
    assert all(line.startswith(f"no Ray cluster at {address}: ")
               for line, address in zip(lines, addresses, strict=True)), lines
