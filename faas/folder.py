"""The folder of a deployment's manifests: written whole or not at all, checked when written and when read."""

import base64
import json
import secrets
import shutil
from pathlib import Path

import yaml

from faas.manifests import LABELS, STORE_NOTE, TOKENS, TOKENS_KEY, manifests
from faas.validate import check
from faas.values import Values
from kdlib.errors import KdlibError
from kdlib.experiment import Experiment

NAMESPACE_FILE, TOKENS_FILE = "00-namespace.yaml", "10-tokens.yaml"


class Deployment:
    """What a folder says. Raises KdlibError where it is none, or one of its manifests is wrong.

    manifests: file name -> manifest, in the order of the names; namespace; functions: names of the Services;
    store: its URL for the driving process; secret: what KDLIB_SECRETS is.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.manifests = {path.name: _read(path) for path in sorted(self.folder.glob("*.yaml"))}
        if not {NAMESPACE_FILE, TOKENS_FILE} <= set(self.manifests):
            raise KdlibError(f"{folder} has no manifests; allowed: a folder that `python -m faas render` wrote")
        for manifest in self.manifests.values():
            check(manifest)
        metadata = self.manifests[NAMESPACE_FILE]["metadata"]
        self.namespace: str = metadata["name"]
        self.store: str | None = metadata.get("annotations", {}).get(STORE_NOTE)
        self.secret = _secret(self.manifests[TOKENS_FILE])
        services = [manifest for manifest in self.manifests.values() if manifest["kind"] == "Service"]
        self.functions: list[str] = [service["metadata"]["name"] for service in services]
        self.secrets_elsewhere = sorted({name for service in services for name in _secret_names(service)} - {TOKENS})


def render(experiment: Experiment, image: str, values: Values, out: str | Path, secret: str | None) -> Deployment:
    """Write all manifests to the folder `out`, which is new, empty, or an earlier one, then replaced as a whole.

    secret: what KDLIB_SECRETS is to be; None keeps the earlier one, or makes one. Raises KdlibError, with nothing
    written, where any manifest is wrong.
    """
    out = Path(out)
    beside, before = (out.parent / f".{out.name}.{word}" for word in ("new", "old"))
    if before.exists() and not out.exists():  # killed between the two renames below
        before.rename(out)
    earlier = _earlier_secret(out)
    made = manifests(experiment, image, values, secret or earlier or secrets.token_hex(32))
    for name, manifest in made.items():
        if name.endswith(".yaml"):
            check(manifest)
    for place in (beside, before):
        shutil.rmtree(place, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    beside.mkdir(mode=0o700)  # there is a secret in it
    try:
        for name, manifest in made.items():
            path, is_yaml = beside / name, name.endswith(".yaml")
            path.parent.mkdir(exist_ok=True)
            path.touch(mode=0o600)
            path.write_text(yaml.safe_dump(manifest, sort_keys=False) if is_yaml else json.dumps(manifest, indent=2))
        if out.exists():
            out.rename(before)
        beside.rename(out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        if out.exists():
            shutil.rmtree(before, ignore_errors=True)
    return Deployment(out)


def _earlier_secret(out: Path) -> str | None:
    """Of what was rendered there before, valid or not. Raises KdlibError where something else is there."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    try:
        namespace, tokens = (_read(out / name) for name in (NAMESPACE_FILE, TOKENS_FILE))
        if namespace["metadata"]["labels"] == LABELS:
            return _secret(tokens)
    except (KdlibError, OSError, KeyError, TypeError, ValueError):
        pass
    raise KdlibError(f"{out} is not what `render` wrote; allowed: a new folder, or one that it wrote")


def _secret(tokens: dict) -> str:
    return base64.b64decode(tokens["data"][TOKENS_KEY]).decode()


def _read(path: Path) -> object:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise KdlibError(f"{path} is not YAML: {' '.join(str(error).split())}") from error


def _secret_names(service: dict) -> list[str]:
    environment = service["spec"]["template"]["spec"]["containers"][0]["env"]
    return [entry["valueFrom"]["secretKeyRef"]["name"] for entry in environment if "valueFrom" in entry]
