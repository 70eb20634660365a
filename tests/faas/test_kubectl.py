"""Deployments by kubectl: what it makes of the manifests, and what is said where there is no cluster, or no kubectl."""

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from deployments import IMAGE, SIGNING

from faas.cluster import kubectl
from faas.cluster.deployment import Deployment
from faas.cluster.folder import render
from faas.cluster.values import load_values
from kdlib.errors import KdlibError
from kdlib.invoke.http import Http
from kdlib.settings.experiment import make_experiment

needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
CLUSTER = """
apiVersion: v1
kind: Config
current-context: none
contexts: [{name: none, context: {cluster: none, user: nobody}}]
clusters: [{name: none, cluster: {server: "http://127.0.0.1:1"}}]
users: [{name: nobody, user: {}}]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("deployment") / "manifests"
    values = out.with_name("values.toml")
    values.write_text(f'user = {os.getuid() or 1000}\n[store]\nkind = "volume"\nsize = "1Gi"\nnode_folder = "/store"\n'
                      f'driver = "file://{out.parent}/store"\n')
    experiment = make_experiment("digits", "fedmd", 1, profile="smoke", clients=3)
    return render(experiment, IMAGE, load_values(values), out, SIGNING).folder


@pytest.fixture
def no_cluster(tmp_path, monkeypatch):
    (tmp_path / "kubeconfig").write_text(CLUSTER)  # nothing listens at port 1 of loopback
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setenv("HOME", str(tmp_path))  # kubectl keeps what it discovers there


@needs_kubectl
def test_kubectl_reads_every_manifest_as_it_was_meant(folder, no_cluster):
    label = ["kubectl", "label", "--local", "--recursive", "--output", "json", "--filename", folder, "a=b"]
    said = subprocess.run(label, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    decoder, text, read = json.JSONDecoder(), said.stdout.strip(), []
    while text:
        manifest, end = decoder.raw_decode(text)
        manifest["metadata"]["labels"].pop("a")
        read.append(manifest)
        text = text[end:].strip()
    assert read == list(Deployment(folder).manifests.values())


@needs_kubectl
@pytest.mark.parametrize("command", ["deploy", "endpoints", "delete"])
def test_without_a_cluster_one_line_says_so_and_nothing_is_written(command, folder, no_cluster, tmp_path):
    out = ["--out", tmp_path / "endpoints.json"] if command == "endpoints" else []
    said = subprocess.run([sys.executable, "-m", "faas", command, folder, *out], capture_output=True, text=True,
                          cwd=Path(__file__).parents[2])
    assert said.returncode == 2 and not said.stdout
    (line,) = said.stderr.splitlines()
    assert line.startswith("faas: kubectl ") and "reaches no cluster; allowed: with one" in line
    assert not list(tmp_path.glob("endpoints*")) and not (folder.parent / "store").exists()


def test_without_kubectl_another_way_is_named(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(KdlibError, match="kubectl is not installed; allowed: with kubectl, or `python -m faas up`"):
        kubectl.delete(Deployment(folder))


def listed(deployment, **instead):
    """The Services as a cluster lists them."""
    items = []
    for name in deployment.functions:
        status = {"url": f"http://{name}.kdlib.127.0.0.1.sslip.io",
                  "conditions": [{"type": "RoutesReady", "status": "True"}, {"type": "Ready", "status": "True"}]}
        items.append({"metadata": {"name": name}, "status": instead.get(name.replace("-", "_"), status)})
    return {"apiVersion": "v1", "kind": "List", "items": items}


def test_endpoints_are_what_the_http_invoker_reads(folder, tmp_path, monkeypatch):
    monkeypatch.delenv("KDLIB_SIGNING_KEY", raising=False)
    deployment, out = Deployment(folder), tmp_path / "endpoints.json"
    kubectl.write_endpoints(kubectl.found(listed(deployment), deployment), deployment.key, out)
    invoker = Http.from_file(out)
    assert set(invoker.endpoints) == {"aggregator", "client-0000", "client-0001", "client-0002"}
    assert invoker.endpoints["client-0001"].url == "http://client-0001.kdlib.127.0.0.1.sslip.io"
    assert (invoker.key, invoker.store) == (SIGNING, f"file://{folder.parent}/store")
    assert SIGNING not in out.read_text() and stat.S_IMODE(out.with_suffix(".key").stat().st_mode) == 0o600


def test_behind_an_ingress_the_name_is_in_the_host(folder):
    deployment = Deployment(folder)
    there = kubectl.found(listed(deployment), deployment, "http://127.0.0.1:31080").functions["aggregator"]
    assert (there.url, there.host) == ("http://127.0.0.1:31080", "aggregator.kdlib.127.0.0.1.sslip.io")


@pytest.mark.parametrize(("status", "words"), [
    ({"conditions": [{"type": "Ready", "status": "False", "message": "Unable to fetch\nthe image"}]},
     "client-0001 is not ready: Unable to fetch the image"),
    ({"conditions": [{"type": "Ready", "status": "Unknown", "reason": "Deploying"}]}, "not ready: Deploying"),
    ({}, "not ready: Knative has not said why"),
])
def test_a_function_that_is_not_ready(status, words, folder):
    deployment = Deployment(folder)
    with pytest.raises(KdlibError, match=words):
        kubectl.found(listed(deployment, client_0001=status), deployment)


def test_a_function_that_is_not_there(folder):
    deployment = Deployment(folder)
    with pytest.raises(KdlibError, match="aggregator is not deployed in namespace kdlib"):
        kubectl.found({"items": []}, deployment)


# Answers as a cluster whose pods go one by one, and notes what it is asked.
RECORDER = """#!/bin/sh
echo "$*" >> "$0.asked"
case "$1 $2" in
"get pods") tail -n +2 "$0.pods" > "$0.less"; cat "$0.pods"; mv "$0.less" "$0.pods";;
"delete pod/"*) : > "$0.pods";;
esac
"""


@pytest.fixture
def recorder(tmp_path, monkeypatch):
    """A program called kubectl: what it is asked is in kubectl.asked, what it says of pods is in kubectl.pods."""
    program = tmp_path / "bin" / "kubectl"
    program.parent.mkdir()
    program.write_text(RECORDER)
    program.chmod(0o700)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(kubectl.time, "sleep", lambda seconds: None)
    return program


def asked(program):
    return [" ".join(line.split()[:2]) for line in program.with_suffix(".asked").read_text().splitlines()]


def test_functions_go_before_their_pods_and_pods_before_the_namespace(folder, recorder):
    recorder.with_suffix(".pods").write_text("pod/client-0000-a\npod/client-0001-a\n")
    said = []
    kubectl.delete(Deployment(folder), said.append)
    assert asked(recorder) == [f"delete {kubectl.KIND}", *3 * ["get pods"], "delete --ignore-not-found"]
    assert said == ["the functions are gone; waiting for their pods, about half a minute", "pods left: 2",
                    "pods left: 1", "namespace kdlib is gone"]


def test_pods_that_do_not_go_are_ended(folder, recorder, monkeypatch):
    recorder.with_suffix(".pods").write_text(50 * "pod/client-0000-a\n")
    monkeypatch.setattr(kubectl, "HANDOVER", -1)
    kubectl.delete(Deployment(folder))
    assert asked(recorder)[1:] == ["get pods", "delete pod/client-0000-a", "get pods", "delete --ignore-not-found"]


def test_pods_that_nothing_ends_are_reported(folder, recorder, monkeypatch):
    recorder.with_suffix(".pods").write_text("pod/client-0000-a\n")
    monkeypatch.setattr(kubectl, "STUCK", -1 - kubectl.HANDOVER)
    with pytest.raises(KdlibError, match=r"1 pods are still there, pod/client-0000-a among .* allowed: `kubectl desc"):
        kubectl.delete(Deployment(folder))
    assert "delete --ignore-not-found" not in asked(recorder)
