"""The settings of a deployment, from values.toml and the user's own file."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from faas.cluster.annotations import Delay, Window
from faas.cluster.fields import LONGEST, Folder, Image, Label, Size, Subdomain, UserId, Version
from faas.cluster.shapes import matching
from kdlib import toml

DEFAULTS = Path(__file__).with_name("values.toml")

Cpus = Annotated[float, Field(ge=0.25, le=512)]
GiB = Annotated[float, Field(ge=0.5, le=4096)]
FileUrl = matching(r"file:///[^{}\s]*[^{}/\s]", "file:///FOLDER")
S3Url = matching(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9][A-Za-z0-9._-]*)*", "s3://BUCKET or "
                 "s3://BUCKET/PREFIX")


class Settings(BaseModel):
    """Frozen; an unknown setting is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class VolumeStore(Settings):
    """A volume that all functions mount folders of; see values.toml."""

    kind: Literal["volume"]
    size: Size
    node_folder: Folder | None = None
    storage_class: Subdomain | None = None
    driver: FileUrl

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.node_folder and self.storage_class:
            raise ValueError("node_folder and storage_class are both set; allowed: one of them, or neither")
        return self


class S3Store(Settings):
    """A bucket, or a prefix of one; see values.toml."""

    kind: Literal["s3"]
    url: S3Url
    region: matching(r"[a-z0-9-]+", "lower-case letters, digits and -") = "us-east-1"
    endpoint: matching(r"https?://[^/\s]+/?", "http://HOST or https://HOST") | None = None

    @property
    def driver(self) -> str:
        """Where the driving process finds the objects: at the same place, by its own AWS_* environment."""
        return self.url


class Scaling(Settings):
    """When functions come and go."""

    initial: Annotated[int, Field(ge=0, le=1)]
    window: Window
    retention: Delay
    timeout: Annotated[int, Field(ge=1, le=LONGEST)]
    overcommit: Annotated[float, Field(ge=1, le=100)]


class Most(Settings):
    """What a function may have at most: vCPU and GiB."""

    cpu: Cpus
    memory: GiB


class MostAggregator(Most):
    """instances: at a time; None: one for each architecture."""

    instances: Annotated[int, Field(ge=1, le=1000)] | None = None


class Ray(Settings):
    """Ray's workers, of `cpu` vCPU and `memory` GiB each; None: worked out from the experiment."""

    image: Image
    version: Version
    cpu: Annotated[int, Field(ge=1, le=256)]
    memory: GiB | None = None
    workers: Annotated[int, Field(ge=1, le=1000)] | None = None


class Values(Settings):
    """All of them; what each means is said in values.toml, where the defaults are."""

    namespace: Label
    pull_policy: Literal["Always", "IfNotPresent", "Never"]
    pull_secret: Subdomain | None = None
    user: UserId
    callers: Annotated[tuple[Label, ...], Field(min_length=1)]
    store: Annotated[VolumeStore | S3Store, Field(discriminator="kind")]
    scaling: Scaling
    client: Most
    aggregator: MostAggregator
    ray: Ray


def load_values(path: str | Path | None = None) -> Values:
    """The defaults, with what the file at `path` says instead. Raises KdlibError where it says what cannot be."""

    def with_defaults(said: dict) -> Values:
        settings = toml.read(DEFAULTS, "values file", dict)
        for name, value in said.items():
            merges = isinstance(value, dict) and isinstance(settings.get(name), dict) and name != "store"
            settings[name] = settings[name] | value if merges else value
        return Values(**settings)

    return toml.read(Path(path), "values file", with_defaults) if path else with_defaults({})
