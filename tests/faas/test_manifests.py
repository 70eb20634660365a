"""What the manifests of a run say: who may touch what, how a function scales, how large it is, as whom it runs."""

import itertools
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from deployments import IMAGE, SIGNING

from faas.cluster.fields import quantity
from faas.cluster.manifests import manifests
from faas.cluster.values import load_values
from kdlib.errors import KdlibError
from kdlib.invoke.tokens import make_key, public_of
from kdlib.settings.architectures import ZOO
from kdlib.settings.experiment import make_experiment
from kdlib.store.store import Store


def spec(manifest):
    return manifest["spec"]["template"]["spec"]


def container(manifest):
    return spec(manifest)["containers"][0]


def environment(manifest):
    return {one["name"]: one.get("value") or one["valueFrom"]["secretKeyRef"] for one in container(manifest)["env"]}


def mounts(manifest):
    return {one["mountPath"]: one["readOnly"] for one in container(manifest)["volumeMounts"] if one["name"] == "store"}


def test_one_function_a_client_and_one_for_all_aggregators(rendered):
    made = rendered()
    services = [manifest for manifest in made.values() if manifest["kind"] == "Service"]
    names = [service["metadata"]["name"] for service in services]
    assert names == ["aggregator", *(f"client-{index:04}" for index in range(6))]
    for service in services:
        annotations = service["spec"]["template"]["metadata"]["annotations"]
        at_a_time = 3 if service["metadata"]["name"] == "aggregator" else 1  # three architectures
        assert annotations["autoscaling.knative.dev/min-scale"] == "0", "scales to zero"
        assert annotations["autoscaling.knative.dev/max-scale"] == str(at_a_time)
        assert (spec(service)["containerConcurrency"], spec(service)["timeoutSeconds"]) == (1, 600)
        assert spec(service)["responseStartTimeoutSeconds"] == 600, "a Step answers only when it is done"
        probes = {when: container(service)[f"{when}Probe"] for when in ("startup", "readiness", "liveness")}
        assert [probes[when]["periodSeconds"] for when in probes] == [1, 1, 10], "a start is seen within a second"
        assert [probes[when]["httpGet"]["path"].rpartition("/")[2] for when in probes] == [
            "readiness", "readiness", "liveness"]
        assert all(probes[when]["timeoutSeconds"] * probes[when]["failureThreshold"] >= 60 for when in probes)
        assert container(service)["image"] == IMAGE


def test_no_function_is_root_or_can_write_to_its_image(rendered):
    for manifest in rendered().values():
        if manifest["kind"] == "Service":
            assert spec(manifest)["automountServiceAccountToken"] is False
            assert container(manifest)["securityContext"] == {
                "runAsNonRoot": True, "runAsUser": 1000, "runAsGroup": 1000, "readOnlyRootFilesystem": True,
                "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]},
                "seccompProfile": {"type": "RuntimeDefault"}}


def test_knative_alone_may_call_a_function(rendered, tmp_path):
    made = rendered()
    policy = made["11-callers.yaml"]["spec"]
    wanted = policy["podSelector"]["matchLabels"].items()
    for manifest in made.values():
        if manifest["kind"] == "Service":
            assert wanted <= manifest["spec"]["template"]["metadata"]["labels"].items(), "of all functions' pods"
    assert not any("labels" in part["template"].get("metadata", {}) for part in (
        made["ray/cluster.yaml"]["spec"]["headGroupSpec"], *made["ray/cluster.yaml"]["spec"]["workerGroupSpecs"]))
    (tmp_path / "istio.toml").write_text('callers = ["knative-serving", "istio-system"]')
    for names, spec in ((["knative-serving", "kourier-system"], policy), (
            ["knative-serving", "istio-system"], rendered(values=tmp_path / "istio.toml")["11-callers.yaml"]["spec"])):
        assert [one["namespaceSelector"]["matchLabels"] for one in spec["ingress"][0]["from"]] == [
            {"kubernetes.io/metadata.name": name} for name in names]


def test_functions_have_the_public_key_and_nothing_has_the_signing_key(rendered):
    made = rendered()
    assert SIGNING.removeprefix("private-") not in str(made)
    services = [manifest for name, manifest in made.items() if name.startswith("30-")]
    assert {environment(service)["KDLIB_PUBLIC_KEYS"] for service in services} == {public_of(SIGNING)}
    assert "KDLIB_PUBLIC_KEYS" not in str(made["ray/cluster.yaml"]), "which is asked by no token"


def test_another_key_makes_another_version_of_every_function():
    experiment, values = make_experiment("digits", "alone", 1, profile="smoke"), load_values()
    one, other = (manifests(experiment, IMAGE, values, public_of(make_key())) for _ in range(2))
    changed = {name for name in one if one[name] != other[name]}
    assert changed == {name for name in one if name.startswith("30-")}


def test_a_function_mounts_its_own_folders_and_no_others(rendered):
    made = rendered()
    client = made["30-client-0003.yaml"]
    assert environment(client)["KDLIB_SUBJECT"] == "client-0003"
    assert environment(client)["KDLIB_STORE"] == "file:///store/{owner}"
    assert mounts(client) == {"/store/public": True, "/store/client-0003": False, "/store/private/client-0003": True}
    clients = {f"/store/client-{index:04}": True for index in range(6)}
    assert mounts(made["30-aggregator.yaml"]) == {"/store/public": False, "/store/aggregator": False} | clients
    for manifest in (client, made["30-aggregator.yaml"]):
        assert all(one["mountPath"] == f"/store/{one['subPath']}" for one in container(manifest)["volumeMounts"]
                   if one["name"] == "store")


NAMESPACE = ["unshare", "--mount"]
CAN_MOUNT = subprocess.run([*NAMESPACE, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True).returncode == 0
ATTEMPTS = """
    import sys, torch
    from kdlib.errors import Missing
    from kdlib.store.store import Store
    store = Store("file:///mnt/store/{owner}/run")
    def outcome(call, *arguments):
        try:
            return call(*arguments) and "read" or "written"
        except Missing:
            return "not there"
        except OSError as error:
            return error.strerror
    for name in sys.argv[1:]:
        print(name, outcome(store.get, name), outcome(store.put, name, {"x": torch.ones(1)}), sep=": ")
"""


@pytest.mark.skipif(not CAN_MOUNT, reason="needs the right to mount in a namespace of its own")
@pytest.mark.parametrize(("function", "readable", "writable"), [
    ("client-0003", {"private/client-0003/data", "client-0003/001/weights", "public/test"},
     {"client-0003/001/weights"}),
    ("aggregator", {"client-0003/001/weights", "client-0004/001/weights", "public/test", "aggregator/validation"},
     {"public/test", "aggregator/validation"}),
])
def test_with_a_manifests_mounts_another_clients_part_is_not_there(function, readable, writable, rendered, tmp_path):
    """The very mounts that the manifest asks for, made by the kernel, and a process that tries everything."""
    names = ["private/client-0003/data", "private/client-0004/data", "client-0003/001/weights",
             "client-0004/001/weights", "public/test", "aggregator/validation"]
    store = Store(f"{tmp_path}/{{owner}}/run")
    for name in names:
        store.put(name, {"x": torch.zeros(1)})
    for index in range(6):  # as `deploy` does
        (tmp_path / f"client-{index:04}").mkdir(exist_ok=True)
    # What is mounted nowhere lies on a file system that cannot be written, as an image cannot.
    script, last = ["mount -t tmpfs tmpfs /mnt"], ["mount -o remount,ro /mnt"]
    for mount in container(rendered()[f"30-{function}.yaml"])["volumeMounts"]:
        if mount["name"] == "store":
            there = f"/mnt{mount['mountPath']}"
            script += [f"mkdir -p {there}", f"mount --bind {tmp_path}/{mount['subPath']} {there}"]
            if mount["readOnly"]:
                script.append(f"mount -o remount,ro,bind {there}")
    script += [*last, f"exec {sys.executable} -c '{textwrap.dedent(ATTEMPTS)}' {' '.join(names)}"]
    ran = subprocess.run([*NAMESPACE, "sh", "-ec", "\n".join(script)], capture_output=True, text=True, timeout=60,
                         cwd=Path(__file__).parents[2])
    assert ran.returncode == 0, ran.stderr
    outcomes = {name: (read, wrote) for name, read, wrote in (line.split(": ") for line in ran.stdout.splitlines())}
    assert {name for name, (read, _) in outcomes.items() if read == "read"} == readable
    assert {name for name, (_, wrote) in outcomes.items() if wrote == "written"} == writable
    for name, (read, wrote) in outcomes.items():
        assert name in readable or read == "not there"
        assert name in writable or wrote == "Read-only file system"


def test_in_s3_every_function_has_credentials_of_its_own(rendered, s3_values):
    made = rendered(values=s3_values)
    assert "21-claim.yaml" not in made and not mounts(made["30-client-0000.yaml"])
    said = environment(made["30-client-0003.yaml"])
    assert said["KDLIB_STORE"] == "s3://bucket/runs/{owner}"
    assert said["AWS_ENDPOINT_URL"] == "https://s3.example.org"
    assert said["AWS_SECRET_ACCESS_KEY"] == {"name": "store-client-0003", "key": "AWS_SECRET_ACCESS_KEY"}
    policies = [name for name in made if name.startswith("policies/")]
    assert len(policies) == 8, "six clients, the aggregators, Ray"
    assert made["00-namespace.yaml"]["metadata"]["annotations"] == {"kdlib/store": "s3://bucket/runs"}


def limits(rendered, strategy, profile, function="aggregator", **settings):
    resources = container(rendered(strategy, profile, **settings)[f"30-{function}.yaml"])["resources"]
    return quantity(resources["limits"]["cpu"]), quantity(resources["limits"]["memory"]) / 2**30


def test_the_papers_sizes_in_the_papers_setting(rendered):
    for strategy in ("fedmd", "feddf"):
        assert limits(rendered, strategy, "paper") == (6, 16)
        clients = [limits(rendered, strategy, "paper", f"client-{index:04}") for index in range(6)]
        assert max(cpu for cpu, _ in clients) == 2
        assert all(1 <= cpu <= 2 and 0.75 <= memory <= 4 for cpu, memory in clients), clients
        small, large = (ZOO.index(name) for name in ("cnn4-64-64-64-256", "cnn2-128-512"))
        assert clients[small][0] < clients[large][0] and clients[small][1] < 0.7 * clients[large][1]
        sizes = [limits(rendered, strategy, profile) for profile in ("smoke", "laptop", "paper")]
        assert all(less < more for less, more in itertools.pairwise(memory for _, memory in sizes))


def test_ray_works_where_the_driver_says_and_touches_public_alone(rendered, tmp_path):
    values = tmp_path / "values.toml"
    values.write_text('[store]\nkind = "volume"\nsize = "1Gi"\ndriver = "file:///data/fl"\n')
    group = rendered(values=values)["ray/cluster.yaml"]["spec"]["workerGroupSpecs"][0]
    worker = group["template"]["spec"]["containers"][0]
    assert {one["mountPath"]: one["subPath"] for one in worker["volumeMounts"] if one["name"] == "store"} == {
        "/data/fl/public": "public"}
    assert (worker["resources"]["limits"]["cpu"], group["rayStartParams"]["num-cpus"]) == ("4", "4"), "as in the paper"
    assert group["replicas"] == 1, "three architectures of one thread fit into one worker"
    assert "ray/cluster.yaml" not in rendered("feddf"), "which has no stage for it"


def test_a_claim_of_the_clusters_own_storage(rendered, tmp_path):
    values = tmp_path / "values.toml"
    values.write_text('[store]\nkind = "volume"\nsize = "1Gi"\nstorage_class = "nfs"\ndriver = "file:///data/fl"\n')
    made = rendered(values=values)
    assert "20-volume.yaml" not in made
    assert made["21-claim.yaml"]["spec"] == {"accessModes": ["ReadWriteMany"], "storageClassName": "nfs",
                                             "resources": {"requests": {"storage": "1Gi"}}}


def test_an_image_or_a_key_that_cannot_be():
    experiment, values = make_experiment("digits", "alone", 1, profile="smoke"), load_values()
    with pytest.raises(KdlibError, match="--image: 'Kdlib:latest' is not allowed; allowed: NAME"):
        manifests(experiment, "Kdlib:latest", values, public_of(SIGNING))
    for wrong in ("public-short", SIGNING):
        with pytest.raises(KdlibError, match="holds what is no public key; allowed: one, or two") as error:
            manifests(experiment, IMAGE, values, wrong)
        assert wrong not in str(error.value)
