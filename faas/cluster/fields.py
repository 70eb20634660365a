"""The fields of a pod that manifests here may have, typed; any other field is refused, and so is a wrong value.

Names, limits and what is reserved are Kubernetes' and Knative's own. Models are written in snake_case and read and
dumped in the manifests' camelCase.
"""

import difflib
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic.alias_generators import to_camel

RESERVED_ENV = ("PORT", "K_SERVICE", "K_REVISION", "K_CONFIGURATION")
RESERVED_PORTS = (8008, 8012, 8013, 8022, 9090, 9091)
RESERVED_CONTAINERS = ("queue-proxy",)
RESERVED_PATHS = ("/", "/dev", "/dev/log")

UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


class Fields(BaseModel):
    """Strict: a string is no number, and nothing that is not declared may be there."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, alias_generator=to_camel,
                              populate_by_name=True, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _no_unknown_field(cls, given):
        names = [field.alias for field in cls.model_fields.values()]
        for name in given if isinstance(given, dict) else ():
            if name not in names and name not in cls.model_fields:
                close = difflib.get_close_matches(str(name), names, 1)
                hint = f" (did you mean {close[0]}?)" if close else ""
                raise ValueError(f"unknown field {name}{hint}; allowed: {', '.join(names)}")
        return given

    def manifest(self) -> dict:
        """As a manifest has it: camelCase, without what is not set."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def _allowed_only(reserved, what):
    def check(value):
        if value in reserved:
            raise ValueError(f"{value!r} is a reserved {what}; allowed: any but {', '.join(map(str, reserved))}")
        return value
    return AfterValidator(check)


def cores(text: str) -> float:
    """'500m' -> 0.5, '2' -> 2.0."""
    return int(text[:-1]) / 1000 if text.endswith("m") else float(text)


def octets(text: str) -> int:
    """'512Mi' -> bytes."""
    number, unit = re.fullmatch(r"([0-9]+)([A-Za-z]*)", text).groups()
    return int(number) * UNITS[unit]


def matching(pattern: str, what: str) -> type[str]:
    """Strings that match the pattern as a whole; any other is told what is allowed."""
    def check(text):
        if not re.fullmatch(pattern, text, re.ASCII):
            raise ValueError(f"{text[:80]!r} is not allowed; allowed: {what}")
        return text
    return Annotated[str, AfterValidator(check)]


Label = matching(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", "up to 63 lower-case letters, digits and -, a letter first")
Subdomain = matching(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", "lower-case letters, digits, - and .")
EnvName = Annotated[matching(r"[A-Za-z_][A-Za-z0-9_]*", "letters, digits and _"),
                    _allowed_only(RESERVED_ENV, "environment variable")]
Image = matching(r"[a-z0-9]+([._:/-]{1,2}[a-z0-9]+)*(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?",
                 "NAME, NAME:TAG or NAME@sha256:DIGEST, NAME in lower case")
Cpu = matching(r"[0-9]+m|[0-9]+(\.[0-9]{1,3})?", "cores such as 2, 0.5 or 500m")
Size = matching(r"[0-9]+(k|M|G|T|Ki|Mi|Gi|Ti)?", "bytes such as 512Mi or 4Gi")
Version = matching(r"[0-9]+\.[0-9]+\.[0-9]+", "a version such as 2.60.0")
Path = Annotated[matching(r"/([^/]+(/[^/]+)*)?", "an absolute path"), _allowed_only(RESERVED_PATHS, "path")]
Labels = dict[matching(r"([a-z0-9.-]+/)?[A-Za-z0-9][A-Za-z0-9._-]{0,62}", "NAME or DOMAIN/NAME"),
              matching(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?", "up to 63 letters, digits, -, _ and .")]


class SecretKey(Fields):
    """One value of a Secret."""

    name: Subdomain
    key: str


class ValueFrom(Fields):
    """Where the value of an environment variable comes from."""

    secret_key_ref: SecretKey


class Env(Fields):
    """One environment variable: a value, or a Secret's."""

    name: EnvName
    value: str | None = None
    value_from: ValueFrom | None = None

    @model_validator(mode="after")
    def _one_of_both(self):
        if (self.value is None) == (self.value_from is None):
            raise ValueError(f"variable {self.name} has {'no source' if self.value is None else 'two sources'}; "
                             "allowed: value, or valueFrom")
        return self


class HttpGet(Fields):
    """A probe's request, at the container's one port."""

    path: matching(r"/\S*", "an absolute path")


class Probe(Fields):
    """Knative asks for readiness many times a second where no period is given."""

    http_get: HttpGet
    initial_delay_seconds: Annotated[int, Field(ge=0)] | None = None
    period_seconds: Annotated[int, Field(ge=1)] | None = None
    timeout_seconds: Annotated[int, Field(ge=1)] | None = None
    failure_threshold: Annotated[int, Field(ge=1)] | None = None


class Amounts(Fields):
    """Cores and memory."""

    cpu: Cpu
    memory: Size


class Resources(Fields):
    """What a container is given for certain, and what it may take at most."""

    requests: Amounts
    limits: Amounts

    @model_validator(mode="after")
    def _requests_within_limits(self):
        for name, number in (("cpu", cores), ("memory", octets)):
            asked, most = getattr(self.requests, name), getattr(self.limits, name)
            if number(asked) > number(most):
                raise ValueError(f"requests.{name} is {asked}; allowed: at most limits.{name}, {most}")
        return self


class Capabilities(Fields):
    """Of the kernel; none is added."""

    drop: list[Literal["ALL"]]


class Seccomp(Fields):
    """The system calls that are let through."""

    type: Literal["RuntimeDefault"] = "RuntimeDefault"


class SecurityContext(Fields):
    """What Kubernetes' `restricted` profile asks for, and a root file system that cannot be written."""

    run_as_non_root: Literal[True] = True
    run_as_user: Annotated[int, Field(ge=1, lt=2**31)]
    run_as_group: Annotated[int, Field(ge=1, lt=2**31)]
    read_only_root_filesystem: bool = True
    allow_privilege_escalation: Literal[False] = False
    capabilities: Capabilities = Capabilities(drop=["ALL"])
    seccomp_profile: Seccomp = Seccomp()


class Mount(Fields):
    """A volume, or the folder `sub_path` of it, at a path in the container."""

    name: Label
    mount_path: Path
    sub_path: matching(r"[a-z0-9][a-z0-9_-]*(/[a-z0-9][a-z0-9_-]*)*", "an owner's folder") | None = None
    read_only: bool = False


class ClaimSource(Fields):
    """A PersistentVolumeClaim."""

    claim_name: Subdomain
    read_only: bool = False


class EmptyDir(Fields):
    """A folder that lives as long as the pod."""

    size_limit: Size


class Volume(Fields):
    """One volume of a pod, from one source."""

    name: Label
    persistent_volume_claim: ClaimSource | None = None
    empty_dir: EmptyDir | None = None

    @model_validator(mode="after")
    def _one_source(self):
        if (self.persistent_volume_claim is None) == (self.empty_dir is None):
            raise ValueError(f"volume {self.name} needs one source; allowed: persistentVolumeClaim, or emptyDir")
        return self


class Port(Fields):
    """Where a container listens."""

    container_port: Annotated[int, Field(ge=1, le=65535)]
    name: str | None = None
    protocol: Literal["TCP"] | None = None


class Container(Fields):
    """What containers of functions and of Ray have in common."""

    name: Annotated[Label, _allowed_only(RESERVED_CONTAINERS, "container name")]
    image: Image
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"]
    env: list[Env]
    ports: list[Port] | None = None
    resources: Resources
    security_context: SecurityContext
    volume_mounts: list[Mount]

    @field_validator("env", "volume_mounts")
    @classmethod
    def _once(cls, items):
        names = [getattr(item, "mount_path", None) or item.name for item in items]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two are {twice[0]}; allowed: one")
        return items


def check_mounts(containers: list[Container], volumes: list[Volume]) -> None:
    """Raises ValueError unless every mount has its volume, and every volume is mounted."""
    declared, mounted = ({volume.name: volume for volume in volumes},
                         [mount for container in containers for mount in container.volume_mounts])
    if len(declared) < len(volumes):
        raise ValueError("two volumes have one name; allowed: a name for each")
    if missing := sorted({mount.name for mount in mounted} - set(declared)):
        raise ValueError(f"volume {missing[0]} is mounted but not declared; allowed: {', '.join(declared) or 'none'}")
    if unused := sorted(set(declared) - {mount.name for mount in mounted}):
        raise ValueError(f"volume {unused[0]} is declared but not mounted; allowed: those that are mounted")
    for mount in mounted:
        claim = declared[mount.name].persistent_volume_claim
        if claim and claim.read_only and not mount.read_only:
            raise ValueError(f"mount {mount.mount_path} can be written; allowed: readOnly, as its volume is")
