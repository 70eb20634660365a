"""All manifests of a deployment: an experiment, an image, the settings and the secret -> file name -> manifest."""

import hashlib
from urllib.parse import urlsplit

from pydantic import TypeAdapter, ValidationError

from faas.cluster import access
from faas.cluster import kubernetes as k8s
from faas.cluster.annotations import AUTOSCALING
from faas.cluster.fields import Env, Fields, Image, Mount, Volume
from faas.cluster.knative import Service
from faas.cluster.kubernetes import LABELS, STORE_NOTE, TOKENS, TOKENS_KEY
from faas.cluster.resources import Allotment, aggregator_allotment, client_allotment, worker_memory
from faas.cluster.values import S3Store, Values
from kdlib.errors import KdlibError
from kdlib.invoke.strategy import strategy_of
from kdlib.invoke.tokens import AGGREGATOR, secrets
from kdlib.settings.experiment import Experiment
from kdlib.toml import one_line

STORE = "/store"  # in a function, whose folders are mounted below it
STORE_VOLUME = "store"
RAYS_OWN = 2048  # MiB of Ray's processes, its object store among them
ALIVE, READY = "/health/liveness", "/health/readiness"


def manifests(experiment: Experiment, image: str, values: Values, secret: str) -> dict[str, dict]:
    """File name -> manifest or S3 policy, in the order in which a cluster wants them.

    secret: what KDLIB_SECRETS is to be. Raises KdlibError where the experiment does not fit the settings, or the image
    is none.
    """
    secrets(secret)
    _check_image(image)
    subjects = (AGGREGATOR, *experiment.client_names)
    made: dict[str, Fields] = {"00-namespace.yaml": _namespace(values), "10-tokens.yaml": _tokens(values, secret)}
    policies = {}
    if isinstance(values.store, S3Store):
        policies = {f"policies/{subject}.json": access.policy(subject, values.store.url) for subject in subjects}
    else:
        made |= _volume(values)
    # A new secret makes new versions of all functions, which read it when they start.
    version = hashlib.sha256(secret.encode()).hexdigest()[:8]
    made |= {f"30-{subject}.yaml": _service(experiment, subject, image, values, version) for subject in subjects}
    if any(step.carrier == "worker" for step in strategy_of(experiment).steps):
        made["ray/cluster.yaml"] = _ray_cluster(experiment, values)
        if isinstance(values.store, S3Store):
            policies[f"policies/{access.RAY}.json"] = access.policy(access.RAY, values.store.url)
    return {name: one.manifest() for name, one in made.items()} | policies


def _check_image(image) -> None:
    try:
        TypeAdapter(Image).validate_python(image)
    except ValidationError as error:
        raise KdlibError(f"--image {one_line(error)}") from error


def _namespace(values) -> k8s.Namespace:
    return k8s.Namespace(metadata=k8s.Metadata(name=values.namespace, labels=LABELS,
                                               annotations={STORE_NOTE: values.store.driver}))


def _tokens(values, secret) -> k8s.Secret:
    return k8s.Secret(metadata=k8s.Namespaced(name=TOKENS, namespace=values.namespace, labels=LABELS),
                      data=k8s.encoded({TOKENS_KEY: secret}))


def _volume(values) -> dict[str, Fields]:
    """The claim that all functions mount folders of, and its volume where that is a folder of the node."""
    store, made = values.store, {}
    storage, modes = k8s.Storage(storage=store.size), ["ReadWriteMany"]
    claim = {"storage_class_name": store.storage_class}
    if store.node_folder:
        name = f"{values.namespace}-{STORE_VOLUME}"  # volumes belong to no namespace
        claim = {"storage_class_name": "", "volume_name": name}
        made["20-volume.yaml"] = k8s.PersistentVolume(
            metadata=k8s.Metadata(name=name, labels=LABELS),
            spec=k8s.PersistentVolumeSpec(
                capacity=storage, access_modes=modes, host_path=k8s.HostPath(path=store.node_folder),
                claim_ref=k8s.ClaimReference(name=STORE_VOLUME, namespace=values.namespace)))
    made["21-claim.yaml"] = k8s.Claim(
        metadata=k8s.Namespaced(name=STORE_VOLUME, namespace=values.namespace, labels=LABELS),
        spec=k8s.ClaimSpec(access_modes=modes, resources=k8s.StorageRequest(requests=storage), **claim))
    return made


def _service(experiment, subject, image, values, version) -> Service:
    """One function: a client's, or the aggregators', of which several run side by side."""
    if subject == AGGREGATOR:
        allotment = aggregator_allotment(experiment, values.aggregator, values.scaling.overcommit)
        most = values.aggregator.instances or len(experiment.architectures)
    else:
        allotment, most = client_allotment(experiment, subject, values.client, values.scaling.overcommit), 1
    labels = LABELS | {"app.kubernetes.io/component": AGGREGATOR if subject == AGGREGATOR else "client"}
    scaling = {"min-scale": 0, "max-scale": most, "initial-scale": values.scaling.initial,
               "window": values.scaling.window, "scale-to-zero-pod-retention-period": values.scaling.retention}
    mounts, volumes = _store_mounts(experiment, subject, values, STORE)
    environment = [Env(name="KDLIB_SUBJECT", value=subject), *_store_environment(subject, values),
                   _secret_value(TOKENS_KEY, TOKENS), Env(name="HOME", value="/tmp")]
    container = {
        "name": "function", "image": image, "imagePullPolicy": values.pull_policy,
        "env": environment, "resources": _resources(allotment), "securityContext": _unprivileged(values),
        "volumeMounts": mounts, "readinessProbe": {"httpGet": {"path": READY}},
        # A Step keeps all cores busy, so an answer may take a while; a minute without any is a hang.
        "livenessProbe": {"httpGet": {"path": ALIVE}, "periodSeconds": 10, "timeoutSeconds": 10, "failureThreshold": 6},
    }
    spec = {"containerConcurrency": 1, "timeoutSeconds": values.scaling.timeout,
            "responseStartTimeoutSeconds": values.scaling.timeout, "containers": [container], "volumes": volumes}
    if values.pull_secret:
        spec["imagePullSecrets"] = [{"name": values.pull_secret}]
    annotations = {f"{AUTOSCALING}/{name}": str(value) for name, value in scaling.items()}
    return Service.model_validate({
        "metadata": {"name": subject, "namespace": values.namespace, "labels": labels},
        "spec": {"template": {"metadata": {"annotations": annotations | {"kdlib/secret": version}, "labels": labels},
                              "spec": spec}}})


def _ray_cluster(experiment, values) -> k8s.RayCluster:
    """A head that does no Steps, and workers that pre-train `cpu` / threads architectures at a time each."""
    ray = values.ray
    memory = round(ray.memory * 1024) if ray.memory else worker_memory(experiment, ray.cpu) + RAYS_OWN
    workers = ray.workers or -(-len(experiment.architectures) * experiment.threads // ray.cpu)
    # Steps are sent with the driver's own URL of the store, so that is where a worker must find it.
    root = None if isinstance(values.store, S3Store) else urlsplit(values.store.driver).path
    mounts, volumes = _store_mounts(experiment, access.RAY, values, root)

    def pod(name, allotment, ports=None):
        return {"spec": {"containers": [{
            "name": name, "image": ray.image, "imagePullPolicy": values.pull_policy, "ports": ports,
            "env": [*_store_environment(access.RAY, values), Env(name="HOME", value="/tmp")],
            "resources": _resources(allotment), "volumeMounts": mounts,
            "securityContext": _unprivileged(values) | {"readOnlyRootFilesystem": False},  # Ray writes here and there
        }], "volumes": volumes}}

    ports = [{"name": name, "containerPort": port} for name, port in (("gcs", 6379), ("client", 10001))]
    return k8s.RayCluster.model_validate({
        "metadata": {"name": "pretrain", "namespace": values.namespace, "labels": LABELS},
        "spec": {"rayVersion": ray.version,
                 "headGroupSpec": {"rayStartParams": {"num-cpus": "0", "include-dashboard": "false"},
                                   "template": pod("head", Allotment(1, RAYS_OWN, 1, RAYS_OWN), ports)},
                 "workerGroupSpecs": [{
                     "groupName": "workers", "replicas": workers, "minReplicas": workers, "maxReplicas": workers,
                     "rayStartParams": {"num-cpus": str(ray.cpu)},
                     "template": pod("worker", Allotment(ray.cpu, memory, ray.cpu, memory))}]}})


def _store_mounts(experiment, subject, values, root) -> tuple[list[Mount], list[Volume]]:
    """The folders of the store that the function may touch, below `root`, and a place for temporary files."""
    mounts = [Mount(name="tmp", mount_path="/tmp")]
    volumes = [Volume.model_validate({"name": "tmp", "emptyDir": {"sizeLimit": "512Mi"}})]
    if not isinstance(values.store, S3Store):
        mounts += [Mount(name=STORE_VOLUME, mount_path=f"{root}/{owner}", sub_path=owner, read_only=not writable)
                   for owner, writable in access.folders(subject, experiment.client_names).items()]
        volumes += [Volume.model_validate({"name": STORE_VOLUME, "persistentVolumeClaim": {"claimName": STORE_VOLUME}})]
    return mounts, volumes


def _store_environment(subject, values) -> list[Env]:
    """Where the store is, and in S3 the function's own credentials."""
    store = values.store
    if not isinstance(store, S3Store):
        return [Env(name="KDLIB_STORE", value=f"file://{STORE}/{{owner}}")]
    plain = {"KDLIB_STORE": f"{store.url}/{{owner}}", "AWS_DEFAULT_REGION": store.region,
             "AWS_EC2_METADATA_DISABLED": "true"}
    if store.endpoint:
        plain["AWS_ENDPOINT_URL"] = store.endpoint
    return [*(Env(name=name, value=value) for name, value in plain.items()),
            *(_secret_value(key, f"store-{subject}") for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"))]


def _secret_value(key, secret) -> Env:
    return Env.model_validate({"name": key, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}})


def _resources(allotment: Allotment) -> dict:
    return {"requests": {"cpu": f"{allotment.cpu:g}", "memory": f"{allotment.memory}Mi"},
            "limits": {"cpu": f"{allotment.most_cpu:g}", "memory": f"{allotment.most_memory}Mi"}}


def _unprivileged(values) -> dict:
    return {"runAsUser": values.user, "runAsGroup": values.user}
