"""The same functions for Knative's `func`: a project each, made of a checked manifest.

`func` names a function, and sets what it may have, by its func.yaml alone; there is no option for the name.
"""

import shutil
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import yaml

from faas.cluster.annotations import AUTOSCALING
from faas.cluster.deployment import Deployment
from kdlib.errors import KdlibError

SPEC = "0.36.0"  # version of func.yaml's form
INDEXES = "PIP_EXTRA_INDEX_URL"  # the builder's, from the environment of `func`

PROJECT = """[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "function"
version = "0.1.0"
description = "kdlib's Steps as a Knative function"
requires-python = ">=3.11"
dependencies = ["kdlib[functions,s3]=={kdlib}", "torch=={torch}+cpu"]

[tool.hatch.build.targets.wheel]
packages = ["function"]
"""
CODE = {"__init__.py": "from .func import new\n\n__all__ = [\"new\"]\n",
        "func.py": "from faas.function import new\n\n__all__ = [\"new\"]\n"}


def write(deployment: Deployment, out: Path) -> None:
    """A folder out/FUNCTION for `func deploy --path` each; `out` is new or empty.

    Raises KdlibError, with nothing written, for functions of a store in a volume, of which `func` mounts no part.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise KdlibError(f"{out} is there already; allowed: a new folder, as `func` keeps its own notes in an old one")
    made = {name: func_yaml(service) for name, service in deployment.services.items()}
    beside = out.absolute().with_name(f".{out.name}.new")
    shutil.rmtree(beside, ignore_errors=True)
    project = PROJECT.format(kdlib=version("kdlib"), torch=version("torch").partition("+")[0])
    for name, settings in made.items():
        code = beside / name / "function"
        code.mkdir(parents=True)
        (beside / name / "func.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
        (beside / name / "pyproject.toml").write_text(project)
        for file, text in CODE.items():
            (code / file).write_text(text)
    beside.replace(out.absolute())


def func_yaml(service: dict) -> dict:
    """What func.yaml says of a function's Service. Raises KdlibError where it mounts a volume of the store."""
    metadata, template = service["metadata"], service["spec"]["template"]
    (container,) = template["spec"]["containers"]
    if any("persistentVolumeClaim" in volume for volume in template["spec"]["volumes"]):
        raise KdlibError(f"{metadata['name']} has its store in a volume, of which `func` mounts no part; allowed: a "
                         "store in S3, see [store] in faas/cluster/values.toml")
    annotations = template["metadata"]["annotations"]
    scale = {word: int(annotations.get(f"{AUTOSCALING}/{word}-scale", 0)) for word in ("min", "max")}  # 0: no bound
    resources = container["resources"]
    limits = resources["limits"] | {"concurrency": template["spec"]["containerConcurrency"]}
    return {
        "specVersion": SPEC, "name": metadata["name"], "runtime": "python", "namespace": metadata["namespace"],
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "build": {"builder": "pack", "buildEnvs": [{"name": INDEXES, "value": f"{{{{ env:{INDEXES} }}}}"}]},
        "run": {"envs": [{"name": one["name"], "value": _value(one)} for one in container["env"]]},
        "deploy": {
            "namespace": metadata["namespace"],
            "labels": [{"key": key, "value": value} for key, value in metadata["labels"].items()],
            "options": {"scale": scale, "resources": {"requests": resources["requests"], "limits": limits}},
            "healthEndpoints": {word: container[f"{word}Probe"]["httpGet"]["path"]
                                for word in ("liveness", "readiness")}}}


def _value(variable: dict) -> str:
    if "value" in variable:
        return variable["value"]
    reference = variable["valueFrom"]["secretKeyRef"]
    return f"{{{{ secret:{reference['name']}:{reference['key']} }}}}"
