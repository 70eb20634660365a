"""Whether a manifest is one that a cluster takes and obeys: by our own rules, and by Knative's schema if it is there.

KDLIB_KNATIVE_CRD names a file with the CustomResourceDefinition of serving.knative.dev/v1 Service; that schema lets
pass what Knative's webhook refuses and what Knative ignores, which are our own rules' share (faas.cluster.knative).
"""

import copy
import functools
import os
from pathlib import Path

import yaml
from pydantic import ValidationError

from faas.cluster.fields import Fields
from faas.cluster.knative import Service
from faas.cluster.kubernetes import Claim, Namespace, PersistentVolume, RayCluster, Secret
from kdlib.errors import KdlibError
from kdlib.toml import one_line

KINDS: dict[tuple[str, str], type[Fields]] = {
    (kind.model_fields["api_version"].default, kind.model_fields["kind"].default): kind
    for kind in (Namespace, Secret, PersistentVolume, Claim, Service, RayCluster)}


def check(manifest: object) -> None:
    """Raises KdlibError, in one line that says where and what is allowed, unless a cluster would take and obey it."""
    found = manifest if isinstance(manifest, dict) else {}
    which = str(found.get("apiVersion")), str(found.get("kind"))
    if which not in KINDS:
        raise KdlibError(f"no manifest of {' '.join(which)} is known; allowed: {', '.join(map(' '.join, KINDS))}")
    metadata = found.get("metadata")
    name = f"{which[1]} {metadata.get('name') if isinstance(metadata, dict) else None}"
    try:
        KINDS[which].model_validate(manifest, by_alias=True, by_name=False)
    except ValidationError as error:
        raise KdlibError(f"{name}: {one_line(error)}") from error
    crd = os.environ.get("KDLIB_KNATIVE_CRD")
    if crd and KINDS[which] is Service:
        _check_schema(name, manifest, crd)


def _check_schema(name: str, manifest: dict, crd: str) -> None:
    from jsonschema.exceptions import best_match  # only where there is a schema to check by

    if error := best_match(_validator(crd).iter_errors(manifest)):
        where = ".".join(str(part) for part in error.absolute_path)
        raise KdlibError(f"{name}: {where}: {' '.join(error.message.split())[:300]}, by {Path(crd).name}")


@functools.cache
def _validator(crd: str):
    try:
        from jsonschema import Draft202012Validator

        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the schema takes the slower one four seconds
        definition = yaml.load(Path(crd).read_text(encoding="utf-8"), loader)
        (schema,) = [version["schema"]["openAPIV3Schema"] for version in definition["spec"]["versions"]
                     if version["name"] == "v1"]
    except ImportError as error:
        raise KdlibError("KDLIB_KNATIVE_CRD needs jsonschema; allowed: pip install 'kdlib[functions]'") from error
    except OSError as error:
        raise KdlibError(f"cannot read KDLIB_KNATIVE_CRD {crd}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise KdlibError(f"KDLIB_KNATIVE_CRD {crd} is no CustomResourceDefinition with a version v1") from error
    return Draft202012Validator(_closed(copy.deepcopy(schema)))


def _closed(schema: object) -> object:
    """The same schema, in which a field that is not listed is an error, as the API server would only warn of it."""
    for part in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        _closed(part)
    if isinstance(schema, dict) and isinstance(schema.get("properties"), dict) \
            and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    return schema
