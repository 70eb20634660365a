"""Every rendered manifest is one that Knative takes; each wrong variant is told in one line before that."""

import copy

import pytest
from pydantic import TypeAdapter

from faas.cluster.kinds import KINDS
from faas.cluster.validation import check
from kdlib.errors import KdlibError

SPEC = ("spec", "template", "spec")
CONTAINER = (*SPEC, "containers", 0)
ON_TEMPLATE = ("spec", "template", "metadata", "annotations")
SCALING = "autoscaling.knative.dev"

# (where, value or None to delete, words of the complaint)
WRONG = {
    "a misspelt field": ((*SPEC, "timeoutSecond"), 600, ["timeoutSecond", "did you mean timeoutSeconds"]),
    "a misspelt field of the container": ((*CONTAINER, "resource"), {}, ["containers.0", "did you mean resources"]),
    "a field in snake_case": ((*SPEC, "timeout_seconds"), 600, ["timeout_seconds"]),
    "a field one level too high": (("spec", "timeoutSeconds"), 600, ["spec: field timeoutSeconds", "template"]),
    "timeout over Knative's": ((*SPEC, "timeoutSeconds"), 9999, ["timeoutSeconds", "600", "9999"]),
    "timeout below zero": ((*SPEC, "timeoutSeconds"), -1, ["timeoutSeconds", "-1"]),
    "timeout as text": ((*SPEC, "timeoutSeconds"), "600", ["timeoutSeconds", "integer"]),
    "first byte later than the last": ((*SPEC, "timeoutSeconds"), 300, ["responseStart", "at most", "300"]),
    "concurrency below zero": ((*SPEC, "containerConcurrency"), -1, ["containerConcurrency", "0", "-1"]),
    "concurrency over 1000": ((*SPEC, "containerConcurrency"), 1001, ["containerConcurrency", "1000", "1001"]),
    "nodeSelector": ((*SPEC, "nodeSelector"), {"disk": "ssd"}, ["nodeSelector is not allowed here"]),
    "the pod's securityContext": ((*SPEC, "securityContext"), {"fsGroup": 1}, ["securityContext is not allowed here"]),
    "min above max": ((*ON_TEMPLATE, f"{SCALING}/min-scale"), "2", ["min-scale is 2", "max-scale, 1"]),
    "a scale that is no number": ((*ON_TEMPLATE, f"{SCALING}/max-scale"), "many", ["max-scale: 'many'", "whole"]),
    "an annotation that is no text": ((*ON_TEMPLATE, f"{SCALING}/max-scale"), 1, ["max-scale", "string"]),
    "a window of too few seconds": ((*ON_TEMPLATE, f"{SCALING}/window"), "5s", ["window", "6s to 3600s"]),
    "a window without a unit": ((*ON_TEMPLATE, f"{SCALING}/window"), "30", ["window", "such as 90s"]),
    "an autoscaler that is none": ((*ON_TEMPLATE, f"{SCALING}/class"), "kpa", ["class", f"kpa.{SCALING}"]),
    "an annotation misspelt": ((*ON_TEMPLATE, f"{SCALING}/max-scal"), "1", [f"did you mean {SCALING}/max-scale"]),
    "an annotation as it once was": ((*ON_TEMPLATE, f"{SCALING}/minScale"), "1", [f"did you mean {SCALING}/min-scale"]),
    "an annotation of a misspelt domain": ((*ON_TEMPLATE, "autoscaling.knative.dv/window"), "30s",
                                           [f"did you mean {SCALING}/window"]),
    "an annotation without a domain": ((*ON_TEMPLATE, "max-scale"), "1", [f"did you mean {SCALING}/max-scale"]),
    "autoscaling on the Service": (("metadata", "annotations"), {f"{SCALING}/max-scale": "1"},
                                   ["no effect", "spec.template.metadata.annotations"]),
    "a rollout on the revision": ((*ON_TEMPLATE, "serving.knative.dev/rollout-duration"), "60s",
                                  ["no effect", "the Service's"]),
    "a reserved variable": ((*CONTAINER, "env", 0, "name"), "PORT", ["env.0.name: 'PORT' is not allowed", "reserved"]),
    "another reserved variable": ((*CONTAINER, "env", 0, "name"), "K_REVISION", ["K_REVISION", "reserved"]),
    "a variable twice": ((*CONTAINER, "env", 0, "name"), "KDLIB_STORE", ["two are KDLIB_STORE"]),
    "a variable that is a number": ((*CONTAINER, "env", 0, "value"), 1, ["env.0.value", "string"]),
    "a variable from nowhere": ((*CONTAINER, "env", 0, "value"), None, ["no source of KDLIB_SUBJECT"]),
    "a reserved port": ((*CONTAINER, "ports"), [{"containerPort": 9090}], ["containerPort: 9090", "reserved 8008"]),
    "two ports": ((*CONTAINER, "ports"), [{"containerPort": 8080}, {"containerPort": 8081}], ["ports: 2 are given"]),
    "a port's name": ((*CONTAINER, "ports"), [{"containerPort": 8080, "name": "web"}], ["'web'", "'http1' or 'h2c'"]),
    "a container named queue-proxy": ((*CONTAINER, "name"), "queue-proxy", ["name: 'queue-proxy' is not"]),
    "no image": ((*CONTAINER, "image"), None, ["image", "required"]),
    "an image in upper case": ((*CONTAINER, "image"), "Kdlib", ["Kdlib", "lower case"]),
    "memory in a unit that is none": ((*CONTAINER, "resources", "limits", "memory"), "4GB", ["4GB", "4Gi"]),
    "more asked for than allowed": ((*CONTAINER, "resources", "requests", "cpu"), "64", ["requests.cpu is 64"]),
    "more memory asked for than allowed": ((*CONTAINER, "resources", "requests", "memory"), "64Gi",
                                           ["requests.memory is 64Gi", "at most limits.memory"]),
    "root": ((*CONTAINER, "securityContext", "runAsUser"), 0, ["runAsUser", "greater than or equal to 1"]),
    "may become root": ((*CONTAINER, "securityContext", "runAsNonRoot"), False, ["runAsNonRoot", "True"]),
    "a mount without its volume": ((*CONTAINER, "volumeMounts", 1, "name"), "stone", ["stone", "tmp, store"]),
    "a volume that nothing mounts": ((*SPEC, "volumes", 2), {"name": "rest", "emptyDir": {"sizeLimit": "1Gi"}},
                                     ["rest", "not mounted"]),
    "a mount over the root": ((*CONTAINER, "volumeMounts", 0, "mountPath"), "/", ["mountPath: '/' is not allowed"]),
    "two mounts in one place": ((*CONTAINER, "volumeMounts", 0, "mountPath"), "/store/public", ["two are /store"]),
    "a path out of the volume": ((*CONTAINER, "volumeMounts", 2, "subPath"), "../private/client-0001",
                                 ["../private/client-0001", "owner's folder"]),
    "a quick probe with a limit": ((*CONTAINER, "readinessProbe", "periodSeconds"), None, ["readinessProbe",
                                                                                         "periodSeconds"]),
    "a probe at the start that never comes": ((*CONTAINER, "startupProbe", "periodSeconds"), 0, ["startupProbe", "1"]),
    "a token for Kubernetes": ((*SPEC, "automountServiceAccountToken"), True, ["automountService", "False"]),
    "a token by a line that is gone": ((*SPEC, "automountServiceAccountToken"), None, ["automountService", "required"]),
    "a number for a boolean": ((*SPEC, "automountServiceAccountToken"), 0, ["automountService", "boolean", "'0'"]),
    "all capabilities kept": ((*CONTAINER, "securityContext", "capabilities", "drop"), [], ["drop", "at least 1"]),
    "somebody else's annotation that is no text": ((*ON_TEMPLATE, "sidecar.istio.io/inject"), False,
                                                   ["sidecar.istio.io/inject", "string"]),
    "two containers": ((*SPEC, "containers", 1), {"image": "dev.local/other"}, ["containers: 2 are given", "one"]),
    "a name that is no host's": (("metadata", "name"), "client_0", ["client_0", "lower-case"]),
    "another version": (("apiVersion",), "serving.knative.dev/v2", ["serving.knative.dev/v2", "no manifest"]),
    "another kind": (("kind",), "Servise", ["Servise", "no manifest"]),
}


def changed(manifest, where, value):
    """A copy with `value` there instead."""
    manifest = copy.deepcopy(manifest)
    place = manifest
    for name in where[:-1]:
        place = place[name]
    if value is None:
        del place[where[-1]]
    elif where[-1] == len(place):
        place.append(value)
    else:
        place[where[-1]] = value
    return manifest


@pytest.mark.parametrize(("where", "value", "words"), WRONG.values(), ids=WRONG)
def test_a_wrong_variant_is_one_clear_line(where, value, words, rendered, monkeypatch):
    monkeypatch.delenv("KDLIB_KNATIVE_CRD", raising=False)
    service = rendered()["30-client-0000.yaml"]
    check(service)
    with pytest.raises(KdlibError) as error:
        check(changed(service, where, value))
    text = str(error.value)
    assert "\n" not in text and all(word in text for word in words), text


@pytest.mark.parametrize("strategy", ["fedmd", "feddf", "fedavg", "alone"])
@pytest.mark.parametrize("profile", ["smoke", "laptop", "paper"])
def test_every_rendered_manifest_passes_knatives_schema_too(strategy, profile, rendered, s3_values, crd):
    for values in (None, s3_values):
        made = rendered(strategy, profile, values)
        found = [manifest for name, manifest in made.items() if name.endswith(".yaml")]
        for manifest in found:
            check(manifest)
        clients = sum(manifest["metadata"]["name"].startswith("client-") for manifest in found)
        assert clients == {"smoke": 6, "laptop": 12, "paper": 100}[profile]


@pytest.mark.parametrize(("where", "value"), [
    ((*SPEC, "timeoutSecond"), 1), ((*CONTAINER, "volumeMounts", 0, "sub"), "a"), (SPEC, {"containers": None}),
    ((*SPEC, "containerConcurrency"), "1"),
])
def test_the_schema_by_itself_refuses_what_it_does_not_list(where, value, rendered, crd, monkeypatch):
    service = rendered()["30-client-0000.yaml"]
    monkeypatch.setitem(KINDS, ("serving.knative.dev/v1", "Service"), TypeAdapter(dict))
    check(service)
    with pytest.raises(KdlibError, match=r"^Service client-0000: spec\.template\.spec.* by service-crd\.yaml$"):
        check(changed(service, where, value))


def test_what_is_somebody_elses_annotation_passes(rendered):
    service = rendered()["30-client-0000.yaml"]
    check(changed(service, (*ON_TEMPLATE, "sidecar.istio.io/inject"), "false"))
    check(changed(service, (*ON_TEMPLATE, "queue.sidecar.serving.knative.dev/cpu-resource-request"), "10m"))
    check(changed(service, (*ON_TEMPLATE, f"{SCALING}/scale-down-delay"), "1m30s"))
    check(changed(changed(service, (*ON_TEMPLATE, f"{SCALING}/min-scale"), "3"), (*ON_TEMPLATE, f"{SCALING}/max-scale"),
                  "0"))  # no bound


@pytest.mark.parametrize(("text", "words"), [("a: [", "no CustomResourceDefinition"), ("spec: {}", "no Custom"),
                                             (None, "cannot read")])
def test_a_schema_that_is_none(text, words, rendered, tmp_path, monkeypatch):
    path = tmp_path / "crd.yaml"
    if text:
        path.write_text(text)
    monkeypatch.setenv("KDLIB_KNATIVE_CRD", str(path))
    with pytest.raises(KdlibError, match=words):
        check(rendered()["30-client-0000.yaml"])


@pytest.mark.parametrize("manifest", [None, [], "text", {}, {"apiVersion": "v1", "kind": "Secret"},
                                      {"apiVersion": "v1", "kind": "Secret", "metadata": [], "data": {}}])
def test_what_is_no_manifest(manifest):
    with pytest.raises(KdlibError) as error:
        check(manifest)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "where", "value", "words"), [
    ("ray/cluster.yaml", ("spec", "rayVersio"), "2.60.0", "did you mean rayVersion"),
    ("ray/cluster.yaml", ("spec", "workerGroupSpecs", 0, "replicas"), 5, "replicas is 5"),
    ("ray/cluster.yaml", ("spec", "rayVersion"), "latest", "a version such as"),
    ("11-callers.yaml", ("metadata", "namespace"), None, "namespace"),
    ("21-claim.yaml", ("spec", "accessModes"), ["ReadWriteAll"], "ReadWriteMany"),
    ("11-callers.yaml", ("spec", "ingress", 0, "from"), [], "from: .* at least 1"),
    ("11-callers.yaml", ("spec", "ingress", 0, "from", 0), {}, "namespaceSelector"),
    ("11-callers.yaml", ("spec", "ingress"), [], "ingress: 0 are given"),
    ("11-callers.yaml", ("spec", "policyTypes"), ["Egress"], "Ingress"),
    ("20-volume.yaml", ("spec", "persistentVolumeReclaimPolicy"), "Delete", "Retain"),
])
def test_wrong_variants_of_the_other_manifests(name, where, value, words, rendered):
    with pytest.raises(KdlibError, match=words):
        check(changed(rendered()[name], where, value))
