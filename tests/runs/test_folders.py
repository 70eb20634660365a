"""A run's folder is a path, whatever its name says; only a store is a URL."""

import re

import pytest
from safetensors.torch import load_file

from kdlib.errors import KdlibError
from kdlib.invoke.worker import errand
from kdlib.runs import runner
from kdlib.runs.exports import export
from kdlib.runs.run import load
from kdlib.settings.experiment import make_experiment
from kdlib.store.store import Store

NAMES = ["n/a::b", "memory::x", "n/a://b", "{owner}", "x/{owner}/y", "a{b}c", "a*b", "a?b", "[ab]", "~", "file:x",
         "seed=0", "my runs"]


def small(seed=0):
    return make_experiment("digits", "alone", 1.0, seed, "smoke", architectures=["cnn2-128-256"], clients=2, samples=10,
                           rounds=1, local_epochs=1, test_items=20)


def weights(files):
    return load_file(next(path for path in files if path.suffix == ".safetensors"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Seed -> the run in a folder of a plain name."""
    return {seed: runner.run(small(seed), tmp_path_factory.mktemp("plain"), progress=False) for seed in (0, 1)}


@pytest.mark.parametrize("name", NAMES)
def test_runs_below_a_folder_of_any_name_have_a_store_each_and_end_with_their_own_bytes(name, plain, tmp_path,
                                                                                       monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = [runner.run(small(seed), name, progress=False) for seed in (0, 1)]
    for seed, one in enumerate(runs):
        assert one.final["final_bytes"] == plain[seed].final["final_bytes"]
        assert (tmp_path / name / one.key / "store/private/client-0000/data.safetensors").is_file()
        assert list(one.partition.columns) == list(plain[seed].partition.columns)
        sent = Store(errand(one.key, one.experiment, one.store).place)
        monkeypatch.chdir("/")
        assert sent.names() == plain[seed].store.names(), "a worker elsewhere sees another store"
        monkeypatch.chdir(tmp_path)
        assert runner.again(load(one.folder), progress=False)
        mine, same = (weights(export(of, tmp_path / f"{word}{seed}")) for word, of in (("a", one), ("b", plain[seed])))
        assert all((mine[name] == tensor).all() for name, tensor in same.items()), "another run's weights"


@pytest.mark.parametrize("runs", ["s3://bucket/runs", "memory://x", "file:///tmp/x", "a://b"])
def test_runs_at_a_url_are_refused_before_a_folder_of_its_name_is_made(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KdlibError, match=re.escape(f"{runs} is a URL, and runs lie in a folder; allowed: ")):
        runner.run(small(), runs, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_a_store_in_a_folder_named_from_here_is_found_from_elsewhere(plain, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one = runner.run(small(), tmp_path / "runs", progress=False, store="objects")
    monkeypatch.chdir("/")
    assert load(one.folder).store.names() == plain[0].store.names()


@pytest.mark.parametrize(("store", "said"), [("simplecache::s3://bucket/x", "is a chain of URLs, where one is meant"),
                                             ("a::b", "is a chain of URLs"), ("memory://x::y", "is a chain of URLs"),
                                             ("objects/{owner}", r"names an \{owner\}, which a run adds itself")])
def test_a_store_that_is_no_single_url_is_refused_before_anything_is_written(store, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KdlibError, match=said):
        runner.run(small(), tmp_path / "runs", progress=False, store=store)
    assert list(tmp_path.iterdir()) == []
