"""The kinds of manifest of a deployment, field by field, and what a cluster refuses in them, or worse, ignores.

Fields that Kubernetes has, but that no function needs, are refused too. After Kubernetes' API, and knative/serving's
runtime contract and the checks of its webhook (v1.23). The table is our own because schemas say too little: of 50 wrong
Services of our tests Kubernetes' own schemas refuse 5 and Knative's CustomResourceDefinition 8, every field closed.
"""

import functools
import operator
from typing import Annotated, Literal, NotRequired

from pydantic import BeforeValidator, Field, TypeAdapter

from faas.cluster.annotations import OnRevision, OnService
from faas.cluster.fields import LONGEST, Cpu, Folder, Image, Label, Size, Subdomain, UserId, Version, quantity
from faas.cluster.shapes import but, closed, matching, rule, such

Natural, Positive = Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)]
Port, Timeout = Annotated[int, Field(ge=1, le=65535)], Annotated[int, Field(ge=0, le=LONGEST)]
Yes, No = such(bool, bool, "True"), such(bool, lambda value: not value, "False")


def _one_of(*names):
    def check(found):
        if (count := sum(name in found for name in names)) != 1:
            said = "two sources" if count else "no source"
            raise ValueError(f"{said} of {found['name']}; allowed: {' or '.join(names)}")
    return check


def _once(key):
    def check(items):
        names = [item[key] for item in items]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two are {twice[0]}; allowed: one")
    return rule(check)


def _one(kind, least=1):
    """A list of one, or of none where that is enough."""
    def check(items):
        if isinstance(items, list) and not least <= len(items) <= 1:
            raise ValueError(f"{len(items)} are given; allowed: one")
        return items
    return Annotated[list[kind], BeforeValidator(check)]


def _at_most(less, more, number=int):
    """Of two fields, given by their paths."""
    def check(found):
        here, there = (functools.reduce(operator.getitem, path.split("."), found) for path in (less, more))
        if number(here) > number(there):
            raise ValueError(f"{less} is {here}; allowed: at most {more}, {there}")
    return check


def _quick(probe):
    """Where no period is given, Knative asks many times a second."""
    if "periodSeconds" not in probe and {"timeoutSeconds", "failureThreshold"} & set(probe):
        raise ValueError("timeoutSeconds or failureThreshold is set; allowed: with periodSeconds only")


def _mounted(pod):
    declared = [volume["name"] for volume in pod["volumes"]]
    mounted = [mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]]
    if missing := sorted(set(mounted) - set(declared)):
        raise ValueError(f"volume {missing[0]} is mounted but not declared; allowed: {', '.join(declared) or 'none'}")
    if unused := sorted(set(declared) - set(mounted)):
        raise ValueError(f"volume {unused[0]} is declared but not mounted; allowed: those that are mounted")


# The pod of a function or of Ray: as Kubernetes' `restricted` profile asks for, and with one container.
Env = closed(
    _one_of("value", "valueFrom"), value=NotRequired[str],
    name=but(matching(r"[A-Za-z_][A-Za-z0-9_]*", "letters, digits and _"), "PORT", "K_SERVICE", "K_REVISION",
             "K_CONFIGURATION"),
    valueFrom=NotRequired[closed(secretKeyRef=closed(name=Subdomain, key=str))])
Amounts = closed(cpu=Cpu, memory=Size)
Resources = closed(*(_at_most(f"requests.{name}", f"limits.{name}", quantity) for name in ("cpu", "memory")),
                   requests=Amounts, limits=Amounts)
SecurityContext = closed(
    runAsNonRoot=Yes, runAsUser=UserId, runAsGroup=UserId, readOnlyRootFilesystem=bool,
    allowPrivilegeEscalation=No, seccompProfile=closed(type=Literal["RuntimeDefault"]),
    capabilities=closed(drop=Annotated[list[Literal["ALL"]], Field(min_length=1)]))
Mount = closed(
    name=Label, mountPath=Folder, readOnly=NotRequired[bool],
    subPath=NotRequired[matching(r"[a-z0-9][a-z0-9_-]*(/[a-z0-9][a-z0-9_-]*)*", "an owner's folder")])
Volume = closed(
    _one_of("persistentVolumeClaim", "emptyDir"), name=Label, emptyDir=NotRequired[closed(sizeLimit=Size)],
    persistentVolumeClaim=NotRequired[closed(claimName=Subdomain, readOnly=NotRequired[No])])
Volumes = Annotated[list[Volume], _once("name")]
CONTAINER = {
    "image": Image, "imagePullPolicy": Literal["Always", "IfNotPresent", "Never"],
    "env": Annotated[list[Env], _once("name")], "resources": Resources, "securityContext": SecurityContext,
    "volumeMounts": Annotated[list[Mount], _once("mountPath")]}

PROBE = {
    "httpGet": closed(path=matching(r"/\S*", "an absolute path")), "initialDelaySeconds": NotRequired[Natural],
    **dict.fromkeys(("periodSeconds", "timeoutSeconds", "failureThreshold"), NotRequired[Positive])}
ServicePort = closed(containerPort=but(Port, 8008, 8012, 8013, 8022, 9090, 9091),
                     name=NotRequired[Literal["http1", "h2c"]], protocol=NotRequired[Literal["TCP"]])
Function = closed(
    **CONTAINER, name=but(Label, "queue-proxy"), startupProbe=NotRequired[closed(**PROBE)],
    readinessProbe=closed(_quick, **PROBE), livenessProbe=closed(**PROBE),
    ports=NotRequired[_one(ServicePort, least=0)])
Revision = closed(
    _mounted, _at_most("responseStartTimeoutSeconds", "timeoutSeconds"),
    containerConcurrency=Annotated[int, Field(ge=0, le=1000)], timeoutSeconds=Timeout,
    responseStartTimeoutSeconds=Timeout, automountServiceAccountToken=No, enableServiceLinks=No,
    serviceAccountName=NotRequired[Subdomain], imagePullSecrets=NotRequired[list[closed(name=Subdomain)]],
    containers=_one(Function), volumes=Volumes)
RayContainer = closed(**CONTAINER, name=Label, ports=NotRequired[list[closed(
    containerPort=Port, name=NotRequired[Label], protocol=NotRequired[Literal["TCP"]])]])
RayPod = closed(spec=closed(
    _mounted, automountServiceAccountToken=No, volumes=Volumes, containers=_one(RayContainer)))

Labels = dict[matching(r"([a-z0-9.-]+/)?[A-Za-z0-9][A-Za-z0-9._-]{0,62}", "NAME or DOMAIN/NAME"),
              matching(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?", "up to 63 letters, digits, -, _ and .")]
MARKS = {"labels": NotRequired[Labels], "annotations": NotRequired[dict[str, str]]}
Global, Namespaced = closed(name=Label, **MARKS), closed(name=Label, namespace=Label, **MARKS)
# A list without an entry would let everybody in.
Caller = closed(namespaceSelector=closed(matchLabels=Annotated[Labels, Field(min_length=1)]))
Ingress = closed(**{"from": Annotated[list[Caller], Field(min_length=1)]})
Storage = closed(storage=Size)
AccessModes = Annotated[list[Literal["ReadWriteMany", "ReadWriteOnce"]], Field(min_length=1)]

KINDS = {which: TypeAdapter(closed(apiVersion=str, kind=str, **fields)) for which, fields in {
    ("v1", "Namespace"): {"metadata": Global},
    ("networking.k8s.io/v1", "NetworkPolicy"): {"metadata": Namespaced, "spec": closed(
        podSelector=closed(matchLabels=Labels), policyTypes=_one(Literal["Ingress"]), ingress=_one(Ingress))},
    ("v1", "PersistentVolume"): {"metadata": Global, "spec": closed(
        capacity=Storage, accessModes=AccessModes, persistentVolumeReclaimPolicy=Literal["Retain"],
        storageClassName=Literal[""], claimRef=closed(name=Label, namespace=Label),
        hostPath=closed(path=Folder, type=Literal["Directory"]))},
    ("v1", "PersistentVolumeClaim"): {"metadata": Namespaced, "spec": closed(
        accessModes=AccessModes, resources=closed(requests=Storage), storageClassName=NotRequired[str],
        volumeName=NotRequired[Label])},
    ("serving.knative.dev/v1", "Service"): {
        "metadata": closed(name=Label, namespace=Label, labels=NotRequired[Labels],
                           annotations=NotRequired[OnService]),
        "spec": closed(template=closed(
            spec=Revision, metadata=closed(annotations=OnRevision, labels=NotRequired[Labels])))},
    ("ray.io/v1", "RayCluster"): {"metadata": Namespaced, "spec": closed(
        rayVersion=Version, headGroupSpec=closed(rayStartParams=dict[str, str], template=RayPod),
        workerGroupSpecs=Annotated[list[closed(
            _at_most("minReplicas", "replicas"), _at_most("replicas", "maxReplicas"), groupName=Label,
            replicas=Natural, minReplicas=Natural, maxReplicas=Positive, rayStartParams=dict[str, str],
            template=RayPod)], Field(min_length=1)])},
}.items()}
