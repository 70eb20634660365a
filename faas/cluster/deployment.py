"""A rendered deployment, read back and checked: what `deploy`, `endpoints` and `delete` work from."""

from pathlib import Path
from typing import Any

import yaml

from faas.cluster.validation import check
from kdlib.errors import KdlibError
from kdlib.invoke.tokens import read_key

LABELS = {"app.kubernetes.io/part-of": "kdlib"}  # on everything
STORE_NOTE = "kdlib/store"  # annotation of the namespace: the store's URL for the driving process
NAMESPACE_FILE, CALLERS_FILE = "00-namespace.yaml", "11-callers.yaml"
KEY_FILE = "signing.key"  # of the driving process alone; no manifest, so it never reaches the cluster
RAY_FILE = "ray/cluster.yaml"


class Deployment:
    """What a folder says. Raises KdlibError where it is none, or one of its manifests is wrong.

    manifests: file name -> manifest, in the order of the names; namespace; services: name -> Service;
    functions: their names; users: whom they run as; store: its URL for the driving process; key: signs
    the calls' tokens; secrets: names of the Secrets that the functions need, which are not in the folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.manifests: dict[str, Any] = {path.relative_to(folder).as_posix(): read_manifest(path)
                                          for path in sorted(self.folder.rglob("*.yaml"))}
        if NAMESPACE_FILE not in self.manifests:
            raise KdlibError(f"{folder} has no manifests; allowed: a folder that `python -m faas render` wrote")
        for manifest in self.manifests.values():
            check(manifest)
        metadata = self.manifests[NAMESPACE_FILE]["metadata"]
        self.namespace: str = metadata["name"]
        self.store: str | None = metadata.get("annotations", {}).get(STORE_NOTE)
        self.key = key_of(self.folder)
        services = [manifest for manifest in self.manifests.values() if manifest["kind"] == "Service"]
        self.services: dict[str, Any] = {service["metadata"]["name"]: service for service in services}
        self.functions: list[str] = list(self.services)
        self.users: set[int] = {_container(service)["securityContext"]["runAsUser"] for service in services}
        self.secrets = sorted({name for service in services for name in _secret_names(service)})


def read_manifest(path: Path) -> Any:
    """What the file says, unchecked. Raises KdlibError where it is no YAML, and OSError where it cannot be read."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise KdlibError(f"{path} is not YAML: {' '.join(str(error).split())}") from error


def key_of(folder: Path) -> str:
    """The key that signs the calls' tokens. Raises KdlibError, which does not show it, where the folder has none."""
    try:
        return read_key(folder / KEY_FILE)
    except (OSError, KdlibError) as error:
        raise KdlibError(f"{folder / KEY_FILE} is no signing key; allowed: as `render` wrote it") from error


def _container(service: dict) -> dict:
    return service["spec"]["template"]["spec"]["containers"][0]


def _secret_names(service: dict) -> list[str]:
    environment = _container(service)["env"]
    return [entry["valueFrom"]["secretKeyRef"]["name"] for entry in environment if "valueFrom" in entry]
