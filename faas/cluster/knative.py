"""A Knative Service: the fields that one here may have, and what Knative refuses, or worse, silently ignores.

After knative/serving's runtime contract and the checks of its webhook (v1.23).
"""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from faas.cluster.annotations import check_on_revision, check_on_service
from faas.cluster.fields import RESERVED_PORTS, Container, Fields, Label, Labels, Probe, Subdomain, Volume, check_mounts

LONGEST = 600  # seconds that Knative lets a request take

# Fields that Knative has, but that a cluster refuses unless its operator switched them on.
SWITCHED_OFF = ("affinity", "dnsConfig", "dnsPolicy", "hostAliases", "hostIPC", "hostNetwork", "hostPID",
                "initContainers", "nodeSelector", "priorityClassName", "runtimeClassName", "schedulerName",
                "securityContext", "shareProcessNamespace", "tolerations", "topologySpreadConstraints")


class ServiceContainer(Container):
    """The one container of a function."""

    readiness_probe: Probe
    liveness_probe: Probe

    @field_validator("ports")
    @classmethod
    def _one_port(cls, ports):
        if len(ports or []) > 1:
            raise ValueError(f"{len(ports)} ports are set; allowed: one")
        for port in ports or []:
            if port.container_port in RESERVED_PORTS:
                raise ValueError(f"{port.container_port} is a reserved port; allowed: any but "
                                 f"{', '.join(map(str, RESERVED_PORTS))}")
            if port.name not in (None, "http1", "h2c"):
                raise ValueError(f"a port is named {port.name!r}; allowed: http1, h2c, or no name")
        return ports

    @model_validator(mode="after")
    def _quick_probes_have_no_limits(self):
        probe = self.readiness_probe
        if probe.period_seconds is None and (probe.timeout_seconds or probe.failure_threshold):
            raise ValueError("readinessProbe has timeoutSeconds or failureThreshold; allowed: with periodSeconds only")
        return self


class PullSecret(Fields):
    """Credentials of an image registry."""

    name: Subdomain


class RevisionSpec(Fields):
    """How one version of a function runs.

    responseStartTimeoutSeconds: until the first byte of the answer, which a Step sends when it is done; Knative's
    default is 300, whatever timeoutSeconds says.
    """

    container_concurrency: Annotated[int, Field(ge=0, le=1000)]
    timeout_seconds: Annotated[int, Field(ge=0, le=LONGEST)]
    response_start_timeout_seconds: Annotated[int, Field(ge=0, le=LONGEST)]
    automount_service_account_token: Literal[False] = False
    enable_service_links: Literal[False] = False
    service_account_name: Subdomain | None = None
    image_pull_secrets: list[PullSecret] | None = None
    containers: Annotated[list[ServiceContainer], Field(min_length=1, max_length=1)]
    volumes: list[Volume]

    @model_validator(mode="before")
    @classmethod
    def _switched_on(cls, fields):
        if isinstance(fields, dict) and (off := sorted(set(SWITCHED_OFF) & set(fields))):
            raise ValueError(f"{off[0]} is refused by a cluster unless its operator switched it on; allowed: without")
        return fields

    @model_validator(mode="after")
    def _consistent(self):
        check_mounts(self.containers, self.volumes)
        if self.response_start_timeout_seconds > self.timeout_seconds:
            raise ValueError(f"responseStartTimeoutSeconds is {self.response_start_timeout_seconds}; allowed: at most "
                             f"timeoutSeconds, {self.timeout_seconds}")
        return self


class RevisionMetadata(Fields):
    """Annotations of a version: how it scales."""

    annotations: dict[str, str]
    labels: Labels | None = None

    @field_validator("annotations")
    @classmethod
    def _known(cls, annotations):
        check_on_revision(annotations)
        return annotations


class RevisionTemplate(Fields):
    """What every new version is made of."""

    metadata: RevisionMetadata
    spec: RevisionSpec


class ServiceSpec(Fields):
    """All traffic goes to the newest version."""

    template: RevisionTemplate


class ServiceMetadata(Fields):
    """The function's name is its Service's."""

    name: Label
    namespace: Label
    labels: Labels | None = None
    annotations: dict[str, str] | None = None

    @field_validator("annotations")
    @classmethod
    def _known(cls, annotations):
        check_on_service(annotations or {})
        return annotations


class Service(Fields):
    """serving.knative.dev/v1 Service."""

    api_version: Literal["serving.knative.dev/v1"] = "serving.knative.dev/v1"
    kind: Literal["Service"] = "Service"
    metadata: ServiceMetadata
    spec: ServiceSpec
