"""A deployment on a cluster, by kubectl: apply, where its functions are, delete."""

import json
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from faas.cluster.deployment import LABELS, NAMESPACE_FILE, RAY_FILE, Deployment
from faas.cluster.layout import expect_user, lay_out
from kdlib.errors import KdlibError

if TYPE_CHECKING:
    from kdlib.invoke.http import Endpoints

KIND = "services.serving.knative.dev"
OF_FUNCTIONS = "serving.knative.dev/service"  # a label of every function's pods, whose value is the function's name
HANDOVER = 35  # seconds that pods have to end by themselves; without a Step it takes them Knative's 30
STUCK = 60  # seconds more until pods that do not go are reported
OURS = ",".join(f"{name}={value}" for name, value in LABELS.items())
LOG_LINE = re.compile(r"[EWIF][0-9]{4} |Warning: ")


def deploy(deployment: Deployment, ray: bool = False, seconds: int = 600) -> None:
    """Apply all manifests and wait until every function is ready; functions of an earlier deployment are removed.

    ray: also the RayCluster. Raises KdlibError where the cluster refuses, or is not ready in time.
    """
    inside = ("--namespace", deployment.namespace)
    expect_user(deployment)
    _kubectl("apply", "--filename", deployment.folder / NAMESPACE_FILE)
    _expect_secrets(deployment, inside)
    lay_out(deployment)
    _kubectl("apply", "--filename", deployment.folder)
    there = [name.rpartition("/")[2] for name in
             _kubectl("get", KIND, *inside, "--selector", OURS, "--output", "name").split()]
    if stale := sorted(set(there) - set(deployment.functions)):
        _kubectl("delete", KIND, *inside, *stale)
    if ray:
        if RAY_FILE not in deployment.manifests:
            raise KdlibError(f"{deployment.folder} has no RayCluster; allowed: --ray with a strategy that has "
                             "Steps of workers")
        _kubectl("apply", "--filename", deployment.folder / RAY_FILE)
    _kubectl("wait", KIND, *inside, "--selector", OURS, "--for", "condition=Ready", f"--timeout={seconds}s",
             patience=seconds + 30)


def endpoints(deployment: Deployment, ingress: str | None = None) -> "Endpoints":
    """Where the cluster has put the functions. ingress: URL to call instead of each name, which goes into Host.

    Raises KdlibError where a function is not there, or not ready.
    """
    listed = _kubectl("get", KIND, "--namespace", deployment.namespace, "--output", "json")
    return found(json.loads(listed), deployment, ingress)


def found(listed: dict, deployment: Deployment, ingress: str | None = None) -> "Endpoints":
    """The endpoints in a Kubernetes list of Services; see `endpoints`."""
    from kdlib.invoke.http import Endpoint, Endpoints  # only now: it loads torch

    status = {service["metadata"]["name"]: service.get("status", {}) for service in listed["items"]}
    functions = {}
    for name in deployment.functions:
        if name not in status:
            raise KdlibError(f"{name} is not deployed in namespace {deployment.namespace}; allowed: after `deploy`")
        ready = {one["type"]: one for one in status[name].get("conditions", [])}.get("Ready", {})
        if ready.get("status") != "True" or "url" not in status[name]:
            why = ready.get("message") or ready.get("reason") or "Knative has not said why"
            raise KdlibError(f"{name} is not ready: {' '.join(why.split())[:300]}")
        url = status[name]["url"]
        functions[name] = Endpoint(url=ingress, host=urlsplit(url).netloc) if ingress else Endpoint(url=url)
    return Endpoints(functions=functions, store=deployment.store)


def write_endpoints(there: "Endpoints", key: str, out: Path) -> None:
    """Write the endpoints file, and beside it the signing key; nobody but their owner can read either."""
    for path, text in ((out.with_suffix(".key"), key), (out, there.model_dump_json(indent=2, exclude_none=True))):
        beside = path.with_name(f".{path.name}.part")
        beside.unlink(missing_ok=True)
        beside.touch(mode=0o600)
        beside.write_text(text)
        beside.replace(path)


def delete(deployment: Deployment, say: Callable[[str], None] = lambda line: None) -> None:
    """Remove all of it from the cluster; what lies in the store stays. Raises KdlibError where the cluster refuses.

    The functions go first, and their pods: a namespace that still has pods waits for half their grace, five minutes.
    A Step in hand has HANDOVER seconds. say: is called with each line of progress.
    """
    inside = ("--namespace", deployment.namespace)
    _kubectl("delete", KIND, *inside, "--all")
    say("the functions are gone; waiting for their pods, about half a minute")
    _await_pods(inside, say)
    _kubectl("delete", "--ignore-not-found", "--filename", deployment.folder, patience=600)
    say(f"namespace {deployment.namespace} is gone")


def _await_pods(inside: tuple[str, ...], say: Callable[[str], None]) -> None:
    """Until no function has a pod; those that take longer than HANDOVER are ended."""
    begun, left, ended = time.monotonic(), None, False
    while pods := _kubectl("get", "pods", *inside, "--selector", OF_FUNCTIONS, "--output", "name").split():
        if len(pods) != left:
            left = len(pods)
            say(f"pods left: {left}")
        if not ended and time.monotonic() - begun > HANDOVER:
            ended = True
            say(f"ending what still runs after {HANDOVER} seconds")
            _kubectl("delete", *pods, *inside, "--ignore-not-found", "--grace-period=5", "--wait=false")
        if time.monotonic() - begun > HANDOVER + STUCK:
            raise KdlibError(f"{left} pods are still there, {pods[0]} among them; is their node? allowed: "
                             f"`kubectl describe {pods[0]} {' '.join(inside)}` says why, then `delete` again")
        time.sleep(1)


def _expect_secrets(deployment: Deployment, inside: tuple[str, ...]) -> None:
    there = {name.rpartition("/")[2] for name in _kubectl("get", "secrets", *inside, "--output", "name").split()}
    if missing := [name for name in deployment.secrets if name not in there]:
        raise KdlibError(f"namespace {deployment.namespace} lacks {len(missing)} Secrets of the store's credentials, "
                         f"{missing[0]} among them; allowed: after `kubectl create secret generic {missing[0]} "
                         f"--namespace {deployment.namespace} --from-env-file=FILE`, and so for each")


def _kubectl(*arguments: object, patience: int = 120) -> str:
    """What kubectl prints. Raises KdlibError with its complaint, or where there is no kubectl, or no answer."""
    command = ["kubectl", *map(str, arguments)]
    said = f"kubectl {arguments[0]}"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=patience, stdin=subprocess.DEVNULL)
    except FileNotFoundError as error:
        raise KdlibError("kubectl is not installed; allowed: with kubectl, or `python -m faas up` without a "
                         "cluster") from error
    except subprocess.TimeoutExpired as error:
        raise KdlibError(f"{said} had no answer for {patience} seconds; is the cluster there?") from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip() and not LOG_LINE.match(line)]
        why = " ".join((lines or ["it failed without a word"])[0].split())[:400]
        if "refused" in why or "no such host" in why or "i/o timeout" in why:
            raise KdlibError(f"{said} reaches no cluster; allowed: with one as kubectl's current context ({why})")
        raise KdlibError(f"{said}: {why}")
    return done.stdout
