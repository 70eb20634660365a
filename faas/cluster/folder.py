"""The folder of a deployment's manifests: written whole or not at all, and only what was checked."""

import contextlib
import json
import shutil
from pathlib import Path

import yaml

from faas.cluster.deployment import KEY_FILE, LABELS, NAMESPACE_FILE, Deployment, key_of, read_manifest
from faas.cluster.manifests import manifests
from faas.cluster.validation import check
from faas.cluster.values import Values
from kdlib.errors import KdlibError
from kdlib.invoke.tokens import make_key, public_of, signing_key
from kdlib.settings.experiment import Experiment


def render(experiment: Experiment, image: str, values: Values, out: str | Path, key: str | None = None,
           rotate: bool = False) -> Deployment:
    """Write all manifests to the folder `out`, which is new, empty, or an earlier one, then replaced as a whole.

    key: signs the calls' tokens; None keeps the folder's earlier one, or makes one. rotate: another one than the
    earlier, which the functions still accept too, until the next time. Raises KdlibError, with nothing written, where
    any manifest is wrong.
    """
    out = Path(out).absolute()
    beside, before = (out.parent / f".{out.name}.{word}" for word in ("new", "old"))
    if before.exists() and not out.exists():  # killed between the two renames below
        before.rename(out)
    earlier = _earlier_key(out)
    if rotate and not earlier:
        raise KdlibError(f"--rotate: {out} has no earlier key; allowed: without it the first time")
    own = signing_key(key) if key else (None if rotate else earlier) or make_key()
    accepted = dict.fromkeys(public_of(one) for one in (own, earlier if rotate else None) if one)
    made = manifests(experiment, image, values, ",".join(accepted))
    for name, manifest in made.items():
        if name.endswith(".yaml"):
            check(manifest)
    for place in (beside, before):
        shutil.rmtree(place, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    beside.mkdir(mode=0o700)  # there is a key in it
    try:
        for name, manifest in made.items():
            path, is_yaml = beside / name, name.endswith(".yaml")
            path.parent.mkdir(exist_ok=True)
            path.touch(mode=0o600)
            path.write_text(yaml.safe_dump(manifest, sort_keys=False) if is_yaml else json.dumps(manifest, indent=2))
        (beside / KEY_FILE).touch(mode=0o600)
        (beside / KEY_FILE).write_text(own)
        if out.exists():
            out.rename(before)
        beside.rename(out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        if out.exists():
            shutil.rmtree(before, ignore_errors=True)
    return Deployment(out)


def _earlier_key(out: Path) -> str | None:
    """Of what was rendered there before, valid or not. Raises KdlibError where something else is there."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    with contextlib.suppress(KdlibError, OSError, KeyError, TypeError):
        if read_manifest(out / NAMESPACE_FILE)["metadata"]["labels"] == LABELS:
            return key_of(out)
    raise KdlibError(f"{out} is not what `render` wrote; allowed: a new folder, or one that it wrote")
