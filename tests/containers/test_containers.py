"""Functions in containers: the image, its limits, how it ends, and federations through it: `make test-containers`."""

import contextlib
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from engine import Engine, NoDocker
from faas.cluster.access import folders
from faas.cluster.resources import client_allotment
from faas.cluster.values import load_values
from faas.local.launch import LABEL
from functions import KEY, ROOT, SIGNING, await_ready, call_of, deployed, headers_of, tiny
from kdlib.invoke.http import AGGREGATOR, Endpoint, Failed, Http
from kdlib.invoke.steps import Record, Step
from kdlib.invoke.tokens import public_of
from kdlib.runs import runner
from kdlib.settings.experiment import make_experiment

IMAGE = "dev.local/kdlib:test"
LARGEST = 1.2e9  # bytes
GUESTS = ROOT / "tests" / "plugin"  # a package with a strategy and networks that kdlib knows nothing of
CLIENTS = tuple(f"client-{index:04}" for index in range(6))


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    try:
        engine = Engine(tmp_path_factory.mktemp("engine"))
    except NoDocker as reason:
        pytest.skip(f"no containers here: {reason}")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in engine.environment.items():
            patch.setenv(name, value)
        yield engine
    engine.stop()


def faas(*arguments):
    return subprocess.run([sys.executable, "-m", "faas", *map(str, arguments)], cwd=ROOT, capture_output=True,
                          text=True, timeout=900, env=os.environ | {"PYTHONPATH": str(ROOT)})


@pytest.fixture(scope="module")
def image(engine):
    built = faas("image", "--tag", IMAGE, "--base", engine.base, "--with", GUESTS)
    assert built.returncode == 0, built.stderr
    return IMAGE


@pytest.fixture(scope="module")
def local(engine, image, tmp_path_factory):
    """The folder of the functions for a smoke run, as containers: six clients, three aggregators."""
    folder = tmp_path_factory.mktemp("local") / "functions"
    experiment = folder.with_suffix(".json")
    experiment.write_text(make_experiment("digits", "fedmd", 1.0, profile="smoke").model_dump_json())
    started = faas("up", "--docker", "--image", image, "--experiment", experiment, "--folder", folder)
    assert started.returncode == 0, started.stderr
    yield folder
    assert faas("down", "--folder", folder).returncode == 0
    assert containers(engine, folder) == []


def containers(engine, folder):
    """Their names."""
    return engine.docker("ps", "--all", "--filter", f"label={LABEL}={folder}", "--format", "{{.Names}}").stdout.split()


@pytest.fixture
def single(engine, image, tmp_path):
    """Start one container with a store of its own; returns its name and URL."""
    names = []

    def start(experiment, *options):
        deployed(f"{tmp_path}/store/{{owner}}", experiment)
        for owner in folders("client-0000", CLIENTS):
            (tmp_path / "store" / owner).mkdir(parents=True, exist_ok=True)
            (tmp_path / "store" / owner).chmod(0o777)
        names.append(f"kdlib-single-{os.getpid()}-{len(names)}")
        engine.docker("run", "--detach", "--name", names[-1], "--publish", "127.0.0.1::8080", "--read-only", "--tmpfs",
                      "/tmp", "--volume", f"{tmp_path}/store:/store", "--env", "KDLIB_SUBJECT=client-0000", "--env",
                      f"KDLIB_PUBLIC_KEYS={public_of(SIGNING)}", "--env", "KDLIB_STORE=file:///store/{owner}",
                      *options, image)
        port = engine.docker("port", names[-1], "8080").stdout.strip().rpartition(":")[2]
        await_ready(f"http://127.0.0.1:{port}")
        return names[-1], f"http://127.0.0.1:{port}"

    yield start
    for name in names:
        engine.docker("rm", "--force", name)


def post(url, step, round_):
    call = call_of(step, round_)
    return httpx.post(url, headers=headers_of(call), content=call.body, trust_env=False, timeout=300)


def test_the_image_is_small_and_says_who_it_runs_as_and_no_key(engine, image):
    (said,) = json.loads(engine.docker("image", "inspect", image).stdout)
    assert said["Size"] <= LARGEST, f"{said['Size'] / 1e9:.2f} GB"
    assert said["Config"]["User"] == "65532:65532" and list(said["Config"]["ExposedPorts"]) == ["8080/tcp"]
    text = json.dumps(said) + engine.docker("history", "--no-trunc", image).stdout
    assert "_KEY" not in text and "AWS_" not in text and "index" not in text.lower().replace("no_index", "")


def test_the_image_has_no_ray_and_no_plots(engine, image):
    code = ("import importlib.util as u; print([m for m in "
            "('ray', 'matplotlib', 'pandas', 'scipy', 'sklearn', 'jupyterlab', 'pip', 'moto') if u.find_spec(m)])")
    done = engine.docker("run", "--rm", "--entrypoint", "/opt/kdlib/bin/python", image, "-c", code)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("strategy", ["fedmd", "feddf"])
def test_a_federation_of_containers_ends_with_the_bytes_of_one_process(strategy, local, smoke, tmp_path):
    """Each function at the memory and the cores that its manifest asks for."""
    with contextlib.closing(Http.from_file(local / "endpoints.json")) as http:
        the_run = runner.run(make_experiment("digits", strategy, 1.0, profile="smoke"), tmp_path, False, http)
    assert the_run.result["final_bytes"] == smoke(strategy).result["final_bytes"]
    assert "ended" not in (local / "log" / "supervisor.log").read_text()


def test_somebody_elses_strategy_and_network_run_in_the_image_that_was_built_with_them(local, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(GUESTS)
    import guests

    guests.install(GUESTS, tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    experiment = make_experiment("digits", "dsfl", 1.0, profile="smoke", architectures=("cnn2-128-256", "guestnet"))
    inline = runner.run(experiment, tmp_path / "inline", False)
    with contextlib.closing(Http.from_file(local / "endpoints.json")) as http:
        the_run = runner.run(experiment, tmp_path / "http", False, http)
    assert the_run.result["final_bytes"] == inline.result["final_bytes"]
    assert {record.backend for record in the_run.records()} == {"http"}


def test_limits_are_those_of_the_manifest(engine, local):
    experiment = make_experiment("digits", "fedmd", 1.0, profile="smoke")
    for name in containers(engine, local):
        (said,) = json.loads(engine.docker("inspect", name).stdout)
        subject = name.removeprefix("kdlib-").rpartition("-")[0]
        if subject in CLIENTS:
            allotment = client_allotment(experiment, subject, load_values().client)
            assert said["HostConfig"]["Memory"] == said["HostConfig"]["MemorySwap"] == allotment.most_memory * 2**20
            assert said["HostConfig"]["NanoCpus"] == min(allotment.most_cpu, os.cpu_count()) * 10**9


def test_a_container_has_its_own_part_of_the_store_alone_and_writes_nowhere_else(engine, local):
    for name in containers(engine, local):
        subject = name.removeprefix("kdlib-").rpartition("-")[0]
        subject = subject if subject in CLIENTS else AGGREGATOR
        mine = folders(subject, CLIENTS)

        def inside(command, name=name):
            return engine.docker("exec", name, "sh", "-c", command, check=False)

        assert inside("id -u").stdout.strip() != "0"
        assert "CapEff:\t0000000000000000" in inside("cat /proc/self/status").stdout
        there = set(inside("cd /store && ls -d * private/* 2>/dev/null | grep -v '^private$'").stdout.split())
        assert there == set(mine)
        for owner in (*CLIENTS, *(f"private/{client}" for client in CLIENTS), "public", AGGREGATOR):
            wrote = inside(f"touch /store/{owner}/planted && rm /store/{owner}/planted").returncode == 0
            assert wrote == mine.get(owner, False), (subject, owner)
            read = inside(f"cat /store/{owner}/*/*.safetensors > /dev/null").returncode == 0
            assert not read or owner in mine, (subject, owner)
        private = ["/store/private"] if subject in CLIENTS else []  # an aggregator has no such place
        for place in ("/", "/etc", "/opt/kdlib", "/store", *private):
            refused = inside(f"touch {place}/planted")
            assert refused.returncode and "Read-only file system" in refused.stderr, (place, refused.stderr)


def test_a_step_that_exceeds_its_memory_dies_and_is_reported_as_that(engine, single):
    greedy = tiny("feddf", width=1.0, architectures=("cnn2-128-512", "cnn3-64-128-256"), batch=256, samples=250)
    name, url = single(greedy, "--memory", "420m", "--memory-swap", "420m")
    with contextlib.closing(Http({"client-0000": Endpoint(url=url)}, SIGNING, tries=1)) as http:
        ((_, outcome),) = http.attempt(KEY, greedy, None, [Step("train", 1, "client-0000")])
    assert isinstance(outcome, Failed) and "did the function end, at its memory limit?" in str(outcome)
    (said,) = json.loads(engine.docker("inspect", name).stdout)
    assert (said["State"]["ExitCode"], said["State"]["OOMKilled"]) == (137, True)


def test_one_that_is_enough_suffices(engine, single):
    experiment = make_experiment("digits", "feddf", 1.0, profile="smoke")
    allotment = client_allotment(experiment, "client-0000", load_values().client)
    _, url = single(experiment, "--memory", f"{allotment.memory}m", "--memory-swap", f"{allotment.memory}m",
                    "--cpus", str(allotment.most_cpu))
    record = Record.model_validate_json(post(url, "train", 1).content)
    assert record.step == "train" and record.peak_memory < allotment.memory * 2**20


def test_sigterm_during_a_step_ends_it_well(engine, single):
    name, url = single(tiny("feddf", local_epochs=300, samples=100))
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(post, url, "train", 1)
        while '"begun"' not in engine.docker("logs", name).stderr:
            time.sleep(0.05)
        engine.docker("stop", "--time", "120", name)
        assert Record.model_validate_json(running.result().content).step == "train"
    (said,) = json.loads(engine.docker("inspect", name).stdout)
    assert said["State"]["ExitCode"] == 0


def test_containers_die_with_their_supervisor(engine, image, tmp_path):
    folder = tmp_path / "functions"
    started = faas("up", "--docker", "--image", image, "--clients", "1", "--folder", folder)
    assert started.returncode == 0, started.stderr
    assert len(containers(engine, folder)) == 2
    key = (folder / "endpoints.key").read_text()
    assert not any(key in word for process in psutil.process_iter(["cmdline"])
                   for word in process.info["cmdline"] or ())
    psutil.Process(int((folder / "supervisor.pid").read_text())).kill()
    deadline = time.monotonic() + 60
    while containers(engine, folder) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert containers(engine, folder) == []
    assert faas("down", "--folder", folder).returncode == 0
    assert sorted(path.name for path in folder.iterdir()) == ["log", "store"]


def test_an_image_that_is_not_there_is_told(engine, tmp_path):
    started = faas("up", "--docker", "--image", "dev.local/none:none", "--clients", "1", "--folder", tmp_path / "f")
    assert started.returncode == 2 and len(started.stderr.splitlines()) == 1
    assert "image dev.local/none:none" in started.stderr and not Path(tmp_path / "f").exists()
