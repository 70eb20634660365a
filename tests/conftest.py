"""Fixtures that several files share."""

import gzip
import json
import os
import sys
import threading
import uuid

import numpy as np
import pytest
from filelock import FileLock

from kdlib import registry
from kdlib.data import sets
from kdlib.invoke.choice import MOST
from kdlib.runs import driver, runner
from kdlib.settings.experiment import make_experiment

os.environ.setdefault(MOST, "1")  # pytest's own workers share the cores, and some tests reach into a Step


def pytest_collection_modifyitems(items):
    """What takes minutes begins first, so that no worker is left with it at the end."""
    items.sort(key=lambda item: item.path.parent.name not in ("notebooks", "bench"))


@pytest.fixture(scope="session")
def smoke(tmp_path_factory):
    """Carry out a smoke run in a new folder, on `digits` unless told; with keep=True no round's objects are swept."""

    def carry_out(strategy, keep=False, alpha=1.0, seed=0, fused=False, task="digits", **settings):
        experiment = make_experiment(task, strategy, alpha, seed, profile="smoke", **settings)
        with pytest.MonkeyPatch.context() as patch:
            if keep:
                patch.setattr(driver, "sweep", lambda *_: None)
            return runner.run(experiment, tmp_path_factory.mktemp("runs"), progress=False, fused=fused)

    return carry_out


@pytest.fixture(scope="session")
def common(tmp_path_factory):
    """A smoke run on `digits`, unless told, for reading: equal ones are carried out once, by whoever asks first."""
    place = tmp_path_factory.getbasetemp()
    place = place.parent if "PYTEST_XDIST_WORKER" in os.environ else place  # which all workers share

    def carry_out(strategy, alpha=1.0, seed=0, task="digits", **settings):
        experiment = make_experiment(task, strategy, alpha, seed, profile="smoke", **settings)
        with FileLock(place / f"{experiment.title.replace(' ', '-')}.lock"):
            return runner.run(experiment, place / "common", progress=False)

    return carry_out


@pytest.fixture(scope="session")
def relabelled(smoke):
    """The same run with every test label altered, and nothing else."""

    def carry_out(strategy, **settings):
        prepare = sets.prepare

        def altered(experiment):
            drawn = prepare(experiment)
            other = (drawn.test.y + 1) % experiment.task.outputs(False)
            return drawn._replace(test=drawn.test._replace(y=other))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sets, "prepare", altered)
            return smoke(strategy, **settings)

    return carry_out


@pytest.fixture
def own_data(tmp_path, monkeypatch):
    """Write NAME.npz into a folder that KDLIB_DATA names; no two images in it are equal."""
    monkeypatch.setenv("KDLIB_DATA", str(tmp_path))

    def write(name="own", train=120, test=30, classes=4, size=10, first=0, **instead):
        number = np.arange(first, first + train + test)
        x = np.zeros((train + test, size, size), np.uint8)
        x[:, 0, 0], x[:, 0, 1] = number % 256, number // 256
        y = number % classes
        arrays = {"x_train": x[:train], "y_train": y[:train], "x_test": x[train:], "y_test": y[train:]} | instead
        path = tmp_path / f"{name}.npz"
        np.savez(path, **{key: array for key, array in arrays.items() if array is not None})
        return path

    return write


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Write NAME.py into an empty working directory; what a test registers or imports from there is gone after it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(registry.PLUGINS, raising=False)
    monkeypatch.setattr(registry, "_allowed", {})
    monkeypatch.setattr(registry, "_environment", "")
    for each in (registry.STRATEGIES, registry.NETWORKS):
        monkeypatch.setattr(each, "_parts", {})
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write(name, text):
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    yield write
    for name, module in list(sys.modules.items()):
        own = getattr(module, "__dict__", {})
        if str(tmp_path) in f"{own.get('__file__')} {own.get('__path__')}":
            del sys.modules[name]


OWN_TEXTS = """
name = "own"
window = 20
[private]
name = "plays"
least_test = 8
[public]
name = "book"
items = 200
"""


@pytest.fixture(scope="session")
def own_texts(tmp_path_factory):
    """A folder with a task of made texts, own.toml, and its data: six roles that are long enough, and one that is not.

    No window is there twice.
    """
    place, rng = tmp_path_factory.mktemp("texts"), np.random.default_rng(0)

    def spoken(length):
        return "".join(rng.choice(list("aabcdeeeefghiiiklmnooooprsttttuuvwy,.!  "), length)).replace("  ", ". ")

    roles = {f"PLAY_ROLE_{number}": spoken(420 + 10 * number) for number in range(6)} | {"PLAY_PAGE": spoken(150)}
    with gzip.open(place / "plays.json.gz", "wt") as file:
        json.dump(roles, file)
    (place / "book.txt").write_text(spoken(1200))
    (place / "own.toml").write_text(OWN_TEXTS)
    return place


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory):
    """An S3 server, started for the first test that asks for it; see servers.S3Server."""
    from servers import S3Server  # a second of imports that most files' tests do not need

    server = S3Server(tmp_path_factory.mktemp("s3") / "log")
    yield server
    server.stop()


@pytest.fixture
def s3(s3_server, monkeypatch):
    """The URL of an empty place in S3; the environment holds what it takes to read and write there."""
    for key in [key for key in os.environ if key.startswith("AWS_")]:
        monkeypatch.delenv(key)
    for key, value in s3_server.admin.items():
        monkeypatch.setenv(key, value)
    return f"s3://runs/{uuid.uuid4().hex}"


@pytest.fixture
def server(monkeypatch):
    """Files over HTTP on 127.0.0.1, see file_server.FileServer; no proxy in between, no waiting between tries."""
    from file_server import FileServer
    from kdlib.data import fetch

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(fetch, "PAUSES", (0, 0))
    with FileServer() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()
