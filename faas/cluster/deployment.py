"""A rendered deployment, read back and checked: what `deploy`, `endpoints` and `delete` work from."""

import base64
from pathlib import Path
from typing import Any

import yaml

from faas.cluster.validation import check
from kdlib.errors import KdlibError

LABELS = {"app.kubernetes.io/part-of": "kdlib"}  # on everything
STORE_NOTE = "kdlib/store"  # annotation of the namespace: the store's URL for the driving process
TOKENS, TOKENS_KEY = "tokens", "KDLIB_SECRETS"  # the Secret of the functions' tokens
NAMESPACE_FILE, TOKENS_FILE, CALLERS_FILE = "00-namespace.yaml", "10-tokens.yaml", "11-callers.yaml"
RAY_FILE = "ray/cluster.yaml"


class Deployment:
    """What a folder says. Raises KdlibError where it is none, or one of its manifests is wrong.

    manifests: file name -> manifest, in the order of the names; namespace; services: name -> Service;
    functions: their names; users: whom they run as; store: its URL for the driving process; secret: what KDLIB_SECRETS
    is; secrets_elsewhere: names of the Secrets that the functions need and the folder has not.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.manifests: dict[str, Any] = {path.relative_to(folder).as_posix(): read_manifest(path)
                                          for path in sorted(self.folder.rglob("*.yaml"))}
        if not {NAMESPACE_FILE, TOKENS_FILE} <= set(self.manifests):
            raise KdlibError(f"{folder} has no manifests; allowed: a folder that `python -m faas render` wrote")
        for manifest in self.manifests.values():
            check(manifest)
        metadata = self.manifests[NAMESPACE_FILE]["metadata"]
        self.namespace: str = metadata["name"]
        self.store: str | None = metadata.get("annotations", {}).get(STORE_NOTE)
        self.secret = secret_of(self.manifests[TOKENS_FILE])
        services = [manifest for manifest in self.manifests.values() if manifest["kind"] == "Service"]
        self.services: dict[str, Any] = {service["metadata"]["name"]: service for service in services}
        self.functions: list[str] = list(self.services)
        self.users: set[int] = {_container(service)["securityContext"]["runAsUser"] for service in services}
        self.secrets_elsewhere = sorted({name for service in services for name in _secret_names(service)} - {TOKENS})


def read_manifest(path: Path) -> Any:
    """What the file says, unchecked. Raises KdlibError where it is no YAML, and OSError where it cannot be read."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise KdlibError(f"{path} is not YAML: {' '.join(str(error).split())}") from error


def secret_of(tokens: dict) -> str:
    """What KDLIB_SECRETS is by the manifest. Raises KdlibError where it does not say."""
    try:
        return base64.b64decode(tokens["data"][TOKENS_KEY]).decode()
    except (KeyError, TypeError, ValueError) as error:
        raise KdlibError(f"{TOKENS_FILE} has no {TOKENS_KEY}; allowed: as `render` wrote it") from error


def _container(service: dict) -> dict:
    return service["spec"]["template"]["spec"]["containers"][0]


def _secret_names(service: dict) -> list[str]:
    environment = _container(service)["env"]
    return [entry["valueFrom"]["secretKeyRef"]["name"] for entry in environment if "valueFrom" in entry]
