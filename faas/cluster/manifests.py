"""All manifests of a deployment: an experiment, an image, the settings and the public keys -> file name -> manifest."""

import json
from urllib.parse import urlsplit

from pydantic import TypeAdapter

from faas.cluster import access
from faas.cluster.annotations import AUTOSCALING
from faas.cluster.deployment import CALLERS_FILE, LABELS, NAMESPACE_FILE, RAY_FILE, STORE_NOTE
from faas.cluster.fields import Image
from faas.cluster.resources import Allotment, aggregator_allotment, client_allotment, worker_memory
from faas.cluster.validation import expect
from faas.cluster.values import S3Store, Values
from kdlib.invoke.strategy import strategy_of
from kdlib.invoke.tokens import AGGREGATOR, PUBLIC_KEYS, accepted
from kdlib.registry import PLUGINS, plugins
from kdlib.settings.experiment import Experiment

STORE = "/store"  # in a function, whose folders are mounted below it
STORE_VOLUME = "store"
RAYS_OWN = 2048  # MiB of Ray's processes, its object store among them
START = 300  # seconds that a function may take to start
ALIVE, READY = "/health/liveness", "/health/readiness"


def manifests(experiment: Experiment, image: str, values: Values, keys: str) -> dict[str, dict]:
    """File name -> manifest or S3 policy, in the order in which a cluster wants them.

    keys: what KDLIB_PUBLIC_KEYS is to be. Raises KdlibError where the experiment does not fit the settings, or the
    image is none.
    """
    accepted(keys)
    expect(TypeAdapter(Image), image, "--image")
    subjects = [AGGREGATOR, *experiment.client_names]
    made = {
        NAMESPACE_FILE: _manifest("v1", "Namespace", values.namespace, annotations={STORE_NOTE: values.store.driver}),
        CALLERS_FILE: _callers(values)}
    if not isinstance(values.store, S3Store):
        made |= _volume(values)
    made |= {f"30-{subject}.yaml": _service(experiment, subject, image, values, keys) for subject in subjects}
    if any(step.carrier == "worker" for step in strategy_of(experiment).steps):
        made[RAY_FILE] = _ray_cluster(experiment, values)
        subjects.append(access.RAY)
    if isinstance(values.store, S3Store):
        made |= {f"policies/{subject}.json": access.policy(subject, values.store.url) for subject in subjects}
    return json.loads(json.dumps(made))  # parts that are shared would be references in YAML


def _manifest(version, kind, name, namespace=None, **metadata) -> dict:
    place = {"namespace": namespace} if namespace else {}
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, **place, "labels": LABELS, **metadata}}


def _callers(values) -> dict:
    """Who may open a connection to a function: the namespaces of Knative and its ingress, and nobody else."""
    named = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}} for name in values.callers]
    return _manifest("networking.k8s.io/v1", "NetworkPolicy", "callers", values.namespace) | {"spec": {
        "podSelector": {"matchLabels": LABELS}, "policyTypes": ["Ingress"], "ingress": [{"from": named}]}}


def _volume(values) -> dict[str, dict]:
    """The claim that all functions mount folders of, and its volume where that is a folder of the node."""
    store, made = values.store, {}
    storage, modes = {"storage": store.size}, ["ReadWriteMany"]
    chosen = {"storageClassName": store.storage_class} if store.storage_class else {}
    if store.node_folder:
        name = f"{values.namespace}-{STORE_VOLUME}"  # volumes belong to no namespace
        chosen = {"storageClassName": "", "volumeName": name}  # that volume, and none is made
        made["20-volume.yaml"] = _manifest("v1", "PersistentVolume", name) | {"spec": {
            "capacity": storage, "accessModes": modes, "storageClassName": "",
            "persistentVolumeReclaimPolicy": "Retain",  # the folder stays when its claim is deleted
            "claimRef": {"name": STORE_VOLUME, "namespace": values.namespace},
            "hostPath": {"path": store.node_folder, "type": "Directory"}}}
    made["21-claim.yaml"] = _manifest("v1", "PersistentVolumeClaim", STORE_VOLUME, values.namespace) | {
        "spec": {"accessModes": modes, "resources": {"requests": storage}, **chosen}}
    return made


def _service(experiment, subject, image, values, keys) -> dict:
    """One function: a client's, or the aggregators', of which several run side by side."""
    if subject == AGGREGATOR:
        allotment = aggregator_allotment(experiment, values.aggregator, values.scaling.overcommit)
        most = values.aggregator.instances or len(experiment.architectures)
    else:
        allotment, most = client_allotment(experiment, subject, values.client, values.scaling.overcommit), 1
    labels = LABELS | {"app.kubernetes.io/component": AGGREGATOR if subject == AGGREGATOR else "client"}
    scaling = {"min-scale": 0, "max-scale": most, "initial-scale": values.scaling.initial,
               "window": values.scaling.window, "scale-to-zero-pod-retention-period": values.scaling.retention}
    environment = [_plain("KDLIB_SUBJECT", subject), *_store_environment(subject, values),
                   _plain(PUBLIC_KEYS, keys), _plain("HOME", "/tmp")]
    if modules := plugins(files=False):  # which the image has to have
        environment.append(_plain(PLUGINS, ":".join(modules)))
    pod = _pod("function", image, environment, allotment, values, _store_mounts(experiment, subject, values, STORE))
    # A Step keeps all cores busy, so an answer may take a while; a minute without any is a hang.
    pod["containers"][0] |= {
        "startupProbe": _probe(READY, 1, timeoutSeconds=1, failureThreshold=START),
        "readinessProbe": _probe(READY, 1, timeoutSeconds=10, failureThreshold=6),
        "livenessProbe": _probe(ALIVE, 10, timeoutSeconds=10, failureThreshold=6)}
    # The first byte comes when a Step is done; Knative would wait 300 s for it, whatever timeoutSeconds says.
    pod |= {"containerConcurrency": 1, "timeoutSeconds": values.scaling.timeout,
            "responseStartTimeoutSeconds": values.scaling.timeout, "enableServiceLinks": False}
    if values.pull_secret:
        pod["imagePullSecrets"] = [{"name": values.pull_secret}]
    annotations = {f"{AUTOSCALING}/{name}": str(value) for name, value in scaling.items()}
    return _manifest("serving.knative.dev/v1", "Service", subject, values.namespace, labels=labels) | {
        "spec": {"template": {"metadata": {"annotations": annotations, "labels": labels}, "spec": pod}}}


def _ray_cluster(experiment, values) -> dict:
    """A head that does no Steps, and workers that pre-train `cpu` / threads architectures at a time each."""
    ray = values.ray
    memory = round(ray.memory * 1024) if ray.memory else worker_memory(experiment, ray.cpu) + RAYS_OWN
    workers = ray.workers or -(-len(experiment.architectures) * experiment.threads // ray.cpu)
    # Steps are sent with the driver's own URL of the store, so that is where a worker must find it.
    root = None if isinstance(values.store, S3Store) else urlsplit(values.store.driver).path
    mounts = _store_mounts(experiment, access.RAY, values, root)

    def group(name, cpu, memory, options, **more):
        environment = [*_store_environment(access.RAY, values), _plain("HOME", "/tmp")]
        pod = _pod(name, ray.image, environment, Allotment(cpu, memory, cpu, memory), values, mounts)
        pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"] = False  # Ray writes here and there
        pod["containers"][0] |= more
        return {"rayStartParams": options, "template": {"spec": pod}}

    ports = [{"name": name, "containerPort": port} for name, port in (("gcs", 6379), ("client", 10001))]
    head = group("head", 1, RAYS_OWN, {"num-cpus": "0", "include-dashboard": "false"}, ports=ports)
    worker = group("worker", ray.cpu, memory, {"num-cpus": str(ray.cpu)})
    replicas = dict.fromkeys(("replicas", "minReplicas", "maxReplicas"), workers)
    return _manifest("ray.io/v1", "RayCluster", "workers", values.namespace) | {"spec": {
        "rayVersion": ray.version, "headGroupSpec": head,
        "workerGroupSpecs": [{"groupName": "workers", **replicas, **worker}]}}


def _pod(name, image, environment, allotment, values, mounts) -> dict:
    """One container, as Kubernetes' `restricted` profile asks for, and without a token for Kubernetes itself."""
    return {"automountServiceAccountToken": False, "volumes": mounts[1], "containers": [{
        "name": name, "image": image, "imagePullPolicy": values.pull_policy, "env": environment,
        "resources": {"requests": {"cpu": f"{allotment.cpu:g}", "memory": f"{allotment.memory}Mi"},
                      "limits": {"cpu": f"{allotment.most_cpu:g}", "memory": f"{allotment.most_memory}Mi"}},
        "securityContext": {
            "runAsNonRoot": True, "runAsUser": values.user, "runAsGroup": values.user, "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"}},
        "volumeMounts": mounts[0]}]}


def _store_mounts(experiment, subject, values, root) -> tuple[list[dict], list[dict]]:
    """The folders of the store that the function may touch, below `root`, and a place for temporary files."""
    mounts = [{"name": "tmp", "mountPath": "/tmp", "readOnly": False}]
    volumes: list[dict] = [{"name": "tmp", "emptyDir": {"sizeLimit": "512Mi"}}]
    if not isinstance(values.store, S3Store):
        mounts += [{"name": STORE_VOLUME, "mountPath": f"{root}/{owner}", "subPath": owner, "readOnly": not writable}
                   for owner, writable in access.folders(subject, experiment.client_names).items()]
        volumes.append({"name": STORE_VOLUME, "persistentVolumeClaim": {"claimName": STORE_VOLUME, "readOnly": False}})
    return mounts, volumes


def _store_environment(subject, values) -> list[dict]:
    """Where the store is, and in S3 the function's own credentials."""
    store = values.store
    if not isinstance(store, S3Store):
        return [_plain("KDLIB_STORE", f"file://{STORE}/{{owner}}")]
    plain = {"KDLIB_STORE": f"{store.url}/{{owner}}", "AWS_DEFAULT_REGION": store.region,
             "AWS_EC2_METADATA_DISABLED": "true"}
    if store.endpoint:
        plain["AWS_ENDPOINT_URL"] = store.endpoint
    return [*(_plain(name, value) for name, value in plain.items()),
            *(_secret(key, f"store-{subject}") for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"))]


def _probe(path, seconds, **limits) -> dict:
    return {"httpGet": {"path": path}, "periodSeconds": seconds, **limits}


def _plain(name, value) -> dict:
    return {"name": name, "value": value}


def _secret(key, secret) -> dict:
    return {"name": key, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}
