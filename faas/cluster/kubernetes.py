"""What a deployment has beside its functions: namespace, Secrets, the store's volume, and a KubeRay cluster."""

import base64
import binascii
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from faas.cluster.fields import Container, Fields, Label, Labels, Path, Size, Version, Volume, check_mounts, matching

TOKENS, TOKENS_KEY = "tokens", "KDLIB_SECRETS"  # the Secret of the functions' tokens
STORE_NOTE = "kdlib/store"  # annotation of the namespace: the store's URL for the driving process
LABELS = {"app.kubernetes.io/part-of": "kdlib"}  # on everything


class Metadata(Fields):
    """Name, place, and marks."""

    name: Label
    namespace: Label | None = None
    labels: Labels | None = None
    annotations: dict[str, str] | None = None


class Namespaced(Metadata):
    """Of what lives in a namespace."""

    namespace: Label


class Namespace(Fields):
    """v1 Namespace; deleting it deletes all that is in it."""

    api_version: Literal["v1"] = "v1"
    kind: Literal["Namespace"] = "Namespace"
    metadata: Metadata


def _base64(text: str) -> str:
    try:
        base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("a value is not base64; allowed: base64") from error
    return text


class Secret(Fields):
    """v1 Secret; its values are base64 in the manifest."""

    api_version: Literal["v1"] = "v1"
    kind: Literal["Secret"] = "Secret"
    metadata: Namespaced
    type: Literal["Opaque"] = "Opaque"
    data: dict[matching(r"[A-Za-z0-9._-]+", "letters, digits, -, _ and ."), Annotated[str, AfterValidator(_base64)]]


class Storage(Fields):
    """An amount of it."""

    storage: Size


class StorageRequest(Fields):
    """How much a claim asks for."""

    requests: Storage


AccessModes = Annotated[list[Literal["ReadWriteMany", "ReadWriteOnce"]], Field(min_length=1)]


class ClaimSpec(Fields):
    """A storage class '' takes the volume of that name and makes none."""

    access_modes: AccessModes
    resources: StorageRequest
    storage_class_name: str | None = None
    volume_name: Label | None = None


class Claim(Fields):
    """v1 PersistentVolumeClaim: the store of all functions, of which each mounts its own folders."""

    api_version: Literal["v1"] = "v1"
    kind: Literal["PersistentVolumeClaim"] = "PersistentVolumeClaim"
    metadata: Namespaced
    spec: ClaimSpec


class HostPath(Fields):
    """A folder of the cluster's only node."""

    path: Path
    type: Literal["Directory"] = "Directory"


class ClaimReference(Fields):
    """The one claim that a volume is for."""

    name: Label
    namespace: Label


class PersistentVolumeSpec(Fields):
    """A volume whose folder stays when its claim is deleted."""

    capacity: Storage
    access_modes: AccessModes
    persistent_volume_reclaim_policy: Literal["Retain"] = "Retain"
    storage_class_name: Literal[""] = ""
    claim_ref: ClaimReference
    host_path: HostPath


class PersistentVolume(Fields):
    """v1 PersistentVolume: a folder of the node."""

    api_version: Literal["v1"] = "v1"
    kind: Literal["PersistentVolume"] = "PersistentVolume"
    metadata: Metadata
    spec: PersistentVolumeSpec


class PodSpec(Fields):
    """A pod of Ray's."""

    automount_service_account_token: Literal[False] = False
    containers: Annotated[list[Container], Field(min_length=1, max_length=1)]
    volumes: list[Volume]

    @model_validator(mode="after")
    def _mounted(self):
        check_mounts(self.containers, self.volumes)
        return self


class PodTemplate(Fields):
    """What Ray's pods are made of."""

    spec: PodSpec


class Group(Fields):
    """Ray's head. ray_start_params: options of `ray start`."""

    ray_start_params: dict[str, str]
    template: PodTemplate


class WorkerGroup(Group):
    """Ray's workers: as many as are asked for, between two bounds."""

    group_name: Label
    replicas: Annotated[int, Field(ge=0)]
    min_replicas: Annotated[int, Field(ge=0)]
    max_replicas: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _between(self):
        if not self.min_replicas <= self.replicas <= self.max_replicas:
            raise ValueError(f"replicas is {self.replicas}; allowed: minReplicas, {self.min_replicas}, to maxReplicas, "
                             f"{self.max_replicas}")
        return self


class RayClusterSpec(Fields):
    """One head, which does no Steps, and one group of workers."""

    ray_version: Version
    head_group_spec: Group
    worker_group_specs: Annotated[list[WorkerGroup], Field(min_length=1)]


class RayCluster(Fields):
    """ray.io/v1 RayCluster, which the KubeRay operator carries out."""

    api_version: Literal["ray.io/v1"] = "ray.io/v1"
    kind: Literal["RayCluster"] = "RayCluster"
    metadata: Namespaced
    spec: RayClusterSpec


def encoded(values: dict[str, str]) -> dict[str, str]:
    """A Secret's data of plain values."""
    return {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}

