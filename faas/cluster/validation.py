"""Whether a manifest is one that a cluster takes and obeys: by our own table, and by Knative's schema if it is there.

KDLIB_KNATIVE_CRD names a file with the CustomResourceDefinition of serving.knative.dev/v1 Service; that schema lets
pass what Knative's webhook refuses and what Knative ignores, which is our table's share (faas.cluster.kinds).
"""

import functools
import os
from pathlib import Path

import yaml
from pydantic import TypeAdapter, ValidationError

from faas.cluster.kinds import KINDS
from kdlib.errors import KdlibError
from kdlib.toml import one_line


def check(manifest: object) -> None:
    """Raises KdlibError, in one line that says where and what is allowed, unless a cluster would take and obey it."""
    found = manifest if isinstance(manifest, dict) else {}
    which = str(found.get("apiVersion")), str(found.get("kind"))
    if which not in KINDS:
        raise KdlibError(f"no manifest of {' '.join(which)!r} is known; allowed: {', '.join(map(' '.join, KINDS))}")
    metadata = found.get("metadata")
    name = f"{which[1]} {metadata.get('name') if isinstance(metadata, dict) else None}"
    expect(KINDS[which], manifest, name)
    crd = os.environ.get("KDLIB_KNATIVE_CRD")
    if crd and which[1] == "Service":
        _check_schema(name, found, crd)


def expect(kind: TypeAdapter, value: object, what: str) -> None:
    """Raises KdlibError, in one line that starts with `what`, unless the value is of that kind."""
    try:
        kind.validate_python(value)
    except ValidationError as error:
        raise KdlibError(" ".join(f"{what}: {one_line(error)}".split())) from error


def _check_schema(name: str, manifest: dict, crd: str) -> None:
    from jsonschema.exceptions import best_match  # only where there is a schema to check by

    if error := best_match(_validator(crd).iter_errors(manifest)):
        where = ".".join(str(part) for part in error.absolute_path)
        raise KdlibError(f"{name}: {where}: {' '.join(error.message.split())[:300]}, by {Path(crd).name}")


@functools.cache
def _validator(crd: str):
    from jsonschema import Draft202012Validator

    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the schema takes the slower one four seconds
        definition = yaml.load(Path(crd).read_text(encoding="utf-8"), loader)
        (schema,) = [version["schema"]["openAPIV3Schema"] for version in definition["spec"]["versions"]
                     if version["name"] == "v1"]
    except OSError as error:
        raise KdlibError(f"cannot read KDLIB_KNATIVE_CRD {crd}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise KdlibError(f"KDLIB_KNATIVE_CRD {crd} is no CustomResourceDefinition with a version v1") from error
    _close(schema)
    return Draft202012Validator(schema)


def _close(schema: object) -> None:
    """A field that is not listed becomes an error, as the API server would only warn of it."""
    for part in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        _close(part)
    if isinstance(schema, dict) and isinstance(schema.get("properties"), dict) \
            and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
