"""Fixtures that the tests of manifests share."""

import functools

import pytest
from deployments import CRD, IMAGE, SECRET

from faas.cluster.manifests import manifests
from faas.cluster.values import load_values
from kdlib.settings.experiment import make_experiment


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
        return manifests(experiment, IMAGE, load_values(values), SECRET)

    return render


@pytest.fixture
def crd(monkeypatch):
    """Knative's own schema is checked by too; skips where there is none."""
    if not CRD.is_file():
        pytest.skip("Knative's CustomResourceDefinition is not here; KDLIB_KNATIVE_CRD names one")
    monkeypatch.setenv("KDLIB_KNATIVE_CRD", str(CRD))
