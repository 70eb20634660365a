"""The folder of a deployment's manifests: written whole or not at all, and only what was checked."""

import contextlib
import json
import secrets
import shutil
from pathlib import Path

import yaml

from faas.cluster.deployment import LABELS, NAMESPACE_FILE, TOKENS_FILE, Deployment, read_manifest, secret_of
from faas.cluster.manifests import manifests
from faas.cluster.validation import check
from faas.cluster.values import Values
from kdlib.errors import KdlibError
from kdlib.settings.experiment import Experiment


def render(experiment: Experiment, image: str, values: Values, out: str | Path, secret: str | None) -> Deployment:
    """Write all manifests to the folder `out`, which is new, empty, or an earlier one, then replaced as a whole.

    secret: what KDLIB_SECRETS is to be; None keeps the earlier one, or makes one. Raises KdlibError, with nothing
    written, where any manifest is wrong.
    """
    out = Path(out).absolute()
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
    with contextlib.suppress(KdlibError, OSError, KeyError, TypeError):
        if read_manifest(out / NAMESPACE_FILE)["metadata"]["labels"] == LABELS:
            return secret_of(read_manifest(out / TOKENS_FILE))
    raise KdlibError(f"{out} is not what `render` wrote; allowed: a new folder, or one that it wrote")
