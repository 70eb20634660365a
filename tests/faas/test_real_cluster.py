"""What a real cluster says to the manifests, by a dry run on its server: KUBECONFIG names one that has Knative.

Nothing is made there: namespaced manifests go to the namespace `default`, which every cluster has.
"""

import os
import re
import shutil
import subprocess

import pytest
import yaml
from test_validate import CONTAINER, ON_TEMPLATE, SCALING, SPEC, changed

from faas.cluster.fields import quantity

AMOUNT = re.compile("[0-9.]+(m|k|M|G|T|Ki|Mi|Gi|Ti)?")
NAMESPACE = "default"
KNATIVE, RAY = "services.serving.knative.dev", "rayclusters.ray.io"


def kubectl(*arguments, given=None):
    return subprocess.run(["kubectl", "--request-timeout=30s", *arguments], input=given, capture_output=True, text=True,
                          timeout=60)


@pytest.fixture(scope="module")
def kinds():
    """The resources that the cluster has; skips where there is no cluster with Knative."""
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("KUBECONFIG names no cluster")
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    listed = kubectl("api-resources", "--output", "name")
    if listed.returncode != 0:
        pytest.skip(f"the cluster of KUBECONFIG does not answer: {(listed.stderr.splitlines() or ['no word'])[-1]}")
    there = set(listed.stdout.split())
    if KNATIVE not in there:
        pytest.skip("the cluster of KUBECONFIG has no Knative Serving")
    return there


def dry_run(manifest):
    """What the server would do; it answers, and keeps nothing."""
    return kubectl("apply", "--server-side", "--dry-run=server", "--field-manager=kdlib-tests", "--output", "yaml",
                   "--filename", "-", given=yaml.safe_dump(manifest))


@pytest.fixture
def made(rendered, tmp_path):
    """Renders for the namespace `default`: file name -> manifest."""

    def build(strategy, store=""):
        (tmp_path / "values.toml").write_text(f'namespace = "{NAMESPACE}"\n{store}')
        found = rendered(strategy, values=tmp_path / "values.toml")
        return {name: manifest for name, manifest in found.items() if name.endswith(".yaml")}

    return build


@pytest.mark.parametrize("strategy", ["fedmd", "feddf"])
@pytest.mark.parametrize("store", ["", '[store]\nkind = "s3"\nurl = "s3://bucket/runs"\n'], ids=["volume", "s3"])
def test_the_server_takes_every_manifest_as_it_is_written(kinds, strategy, store, made):
    for name, manifest in made(strategy, store).items():
        if manifest["kind"] == "RayCluster" and RAY not in kinds:
            continue  # which `deploy` applies with --ray alone
        said = dry_run(manifest)
        assert said.returncode == 0, f"{name}: {said.stderr}"
        assert_within(manifest, yaml.safe_load(said.stdout), name)


def assert_within(written, there, where):
    """All that was written is there; the server adds defaults, writes amounts in its own way, and may omit False."""
    if isinstance(written, dict):
        for key, value in written.items():
            assert value is False or key in there, f"{where}.{key} is dropped"
            assert_within(value, there.get(key, False), f"{where}.{key}")
    elif isinstance(written, list):
        assert len(written) == len(there), where
        for number, (one, other) in enumerate(zip(written, there, strict=True)):
            assert_within(one, other, f"{where}.{number}")
    elif isinstance(written, str) and all(AMOUNT.fullmatch(text) for text in (written, there)):
        assert quantity(written) == pytest.approx(quantity(there)), where
    else:
        assert written == there, where


def test_what_a_server_drops_or_changes_is_seen():
    written = {"a": [{"cpu": "0.15", "memory": "2048Mi"}], "b": False}
    assert_within(written, {"a": [{"cpu": "150m", "memory": "2Gi", "more": 1}]}, "it")
    for there in ({"a": []}, {"a": [{"cpu": "150m"}]}, {"a": [{"cpu": "151m", "memory": "2Gi"}]},
                  {"a": [{"cpu": "150m", "memory": "2Gi"}], "b": True}):
        with pytest.raises(AssertionError, match="it"):
            assert_within(written, there, "it")


@pytest.mark.parametrize(("where", "value"), [
    ((*SPEC, "timeoutSeconds"), 9999), ((*SPEC, "containerConcurrency"), 1001), ((*SPEC, "timeoutSecond"), 600),
    ((*ON_TEMPLATE, f"{SCALING}/min-scale"), "2"), ((*CONTAINER, "env", 0, "name"), "PORT"),
    ((*CONTAINER, "readinessProbe", "periodSeconds"), None), ((*CONTAINER, "ports"), [{"containerPort": 9090}]),
])
def test_the_server_refuses_what_our_table_says_that_it_does(kinds, where, value, made):
    service = made("feddf")["30-client-0000.yaml"]
    assert dry_run(service).returncode == 0
    assert dry_run(changed(service, where, value)).returncode != 0
