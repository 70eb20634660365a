"""Fixtures that the tests of manifests share, and those of functions over real HTTP."""

import functools

import pytest
from deployments import CRD, IMAGE, SIGNING

from faas.cluster.manifests import manifests
from faas.cluster.values import load_values
from functions import KEY, OTHER, Function, deployed, tiny
from kdlib.invoke.tokens import public_of
from kdlib.settings.experiment import make_experiment
from kdlib.store.store import Store

SLOW = {"transfer_epochs": 100, "samples": 200}  # a second of private transfer learning, without early stop


@pytest.fixture
def s3_values(tmp_path):
    """A values file of a store in S3."""
    path = tmp_path / "s3.toml"
    path.write_text('[store]\nkind = "s3"\nurl = "s3://bucket/runs"\nregion = "eu-central-1"\n'
                    'endpoint = "https://s3.example.org"\n')
    return path


@pytest.fixture(scope="session")
def rendered():
    """The manifests of a run: file name -> manifest; not to be changed."""

    @functools.cache
    def render(strategy="fedmd", profile="smoke", values=None, task="digits", **settings):
        experiment = make_experiment(task, strategy, 0.1, profile=profile, **settings)
        return manifests(experiment, IMAGE, load_values(values), public_of(SIGNING))

    return render


@pytest.fixture
def crd(monkeypatch):
    """Knative's own schema is checked by too; skips where there is none."""
    if not CRD.is_file():
        pytest.skip("Knative's CustomResourceDefinition is not here; KDLIB_KNATIVE_CRD names one")
    monkeypatch.setenv("KDLIB_KNATIVE_CRD", str(CRD))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a store of one run, of FedMD."""
    folder = tmp_path_factory.mktemp("functions")
    deployed(f"{folder}/store/{{owner}}", tiny("fedmd"))
    return folder


@pytest.fixture(scope="module")
def store(place):
    return Store(f"{place}/store/{{owner}}/{KEY}")


@pytest.fixture(scope="module")
def client(place):
    with Function("client-0000", f"file://{place}/store/{{owner}}", place / "client.log") as function:
        yield function


@pytest.fixture(scope="module")
def aggregator(place):
    with Function("aggregator", f"file://{place}/store/{{owner}}", place / "aggregator.log") as function:
        yield function


@pytest.fixture(scope="module")
def slow(place, aggregator):
    """The key of a second run, whose private transfer learning takes a while."""
    deployed(f"{place}/store/{{owner}}", tiny("fedmd", seed=1, transfer_patience=100, **SLOW), OTHER)
    assert aggregator.step("pretrain", 0, "cnn2-128-256", run=OTHER).status_code == 200
    return OTHER
