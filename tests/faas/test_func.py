"""Projects for Knative's `func`: what they say, and their function behind func-python's server, as `func` starts it."""

import json
import signal
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version

import pytest
import yaml
from deployments import IMAGE, SIGNING

from faas.cluster.folder import render
from faas.cluster.func import func_yaml, write
from faas.cluster.values import load_values
from functions import KEY, ROOT, Function, call_of, deployed, headers_of, tiny
from kdlib.errors import KdlibError
from kdlib.invoke.steps import Record
from kdlib.invoke.tokens import public_of
from kdlib.settings.experiment import make_experiment
from kdlib.store.store import Store

# What `func build` writes around a function: its package is called `function` there.
MAIN = "from function import new; from func_python.http import serve; serve(new)"


def serve(subject, place, log, **environment):
    return Function(subject, f"file://{place}/store/{{owner}}", log, (sys.executable, "-c", MAIN),
                    PYTHONPATH=f"{place}/projects/client-0000:{ROOT}", PORT="1", **environment)


def deployment(folder, store='kind = "s3"\nurl = "s3://bucket/runs"'):
    (folder / "values.toml").write_text(f"[store]\n{store}\n")
    experiment = make_experiment("digits", "feddf", 1, profile="smoke")
    return render(experiment, IMAGE, load_values(folder / "values.toml"), folder / "manifests", SIGNING)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("functions")
    write(deployment(folder), folder / "projects")
    deployed(f"{folder}/store/{{owner}}", tiny("feddf", local_epochs=50))
    return folder


@pytest.fixture(scope="module")
def client(place):
    with serve("client-0000", place, place / "log") as function:
        yield function


def test_health_is_func_pythons_with_our_words(client):
    assert client.client.get("/health/liveness").text == client.client.get("/health/readiness").text == "well\n"


@pytest.mark.parametrize(("path", "bearer", "body", "status"), [
    ("/", "none", {"run": KEY, "round": 1, "step": "train", "subject": "client-0000"}, 401),
    ("/", None, {"run": KEY, "round": 1, "step": "train", "subject": "client-0001"}, 403),
    ("/", None, {"run": KEY, "round": "1", "step": "train", "subject": "client-0000"}, 400),
    ("/", None, {"run": KEY, "round": 9, "step": "train", "subject": "client-0000"}, 422),
    ("/", None, [" " * 5000], 413), ("/other", None, {}, 404),
])
def test_refusals_are_those_of_the_app(path, bearer, body, status, client):
    content = json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {bearer}"} if bearer else headers_of(
        call_of("train", int(body["round"]), body["subject"]) if "run" in body else call_of("train", 1), body=content)
    answer = client.client.post(path, content=content, headers=headers)
    assert answer.status_code == status and answer.json()["error"]


def test_sigterm_lets_the_step_in_hand_end_well(client, place):
    store = Store(f"{place}/store/{{owner}}/{KEY}")
    before = client.begun("train")
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(client.step, "train", 1)
        client.await_step("train", before + 1)
        client.process.send_signal(signal.SIGTERM)
        record = Record.model_validate_json(running.result().content)
    assert record.step == "train" and store.exists("client-0000/001/weights")
    assert client.process.wait(120) == 0


def test_a_wrong_environment_is_one_line(place, tmp_path):
    function = serve("nobody", place, tmp_path / "log")
    assert function.process.wait(120) == 2
    assert function.log.read_text().splitlines()[-1].startswith("faas: KDLIB_SUBJECT is 'nobody'; allowed: aggregator")


def settings_of(place, name):
    return yaml.safe_load((place / "projects" / name / "func.yaml").read_text())


def test_every_function_has_a_project_of_its_own_name(place):
    names = ["aggregator", *(f"client-{index:04}" for index in range(6))]
    assert sorted(path.name for path in (place / "projects").iterdir()) == names
    for name in names:
        settings = settings_of(place, name)
        said = {one["name"]: one["value"] for one in settings["run"]["envs"]}
        assert (settings["name"], said["KDLIB_SUBJECT"]) == (name, name)
        assert said["AWS_SECRET_ACCESS_KEY"] == f"{{{{ secret:store-{name}:AWS_SECRET_ACCESS_KEY }}}}"


def test_a_func_yaml_says_what_the_manifest_does(place):
    """Field by field as func's own schema has them, which allows no others."""
    settings = settings_of(place, "aggregator")
    settings.pop("created")
    secret = "{{{{ secret:{}:{} }}}}".format
    assert settings == {
        "specVersion": "0.36.0", "name": "aggregator", "runtime": "python", "namespace": "kdlib",
        "build": {"builder": "pack", "buildEnvs": [
            {"name": "PIP_EXTRA_INDEX_URL", "value": "{{ env:PIP_EXTRA_INDEX_URL }}"}]},
        "run": {"envs": [{"name": name, "value": value} for name, value in {
            "KDLIB_SUBJECT": "aggregator", "KDLIB_STORE": "s3://bucket/runs/{owner}",
            "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ACCESS_KEY_ID": secret("store-aggregator", "AWS_ACCESS_KEY_ID"),
            "AWS_SECRET_ACCESS_KEY": secret("store-aggregator", "AWS_SECRET_ACCESS_KEY"),
            "KDLIB_PUBLIC_KEYS": public_of(SIGNING), "HOME": "/tmp"}.items()]},
        "deploy": {
            "namespace": "kdlib",
            "labels": [{"key": "app.kubernetes.io/part-of", "value": "kdlib"},
                       {"key": "app.kubernetes.io/component", "value": "aggregator"}],
            "options": {"scale": {"min": 0, "max": 3}, "resources": {
                "requests": {"cpu": "0.15", "memory": "608Mi"},
                "limits": {"cpu": "1", "memory": "1024Mi", "concurrency": 1}}},
            "healthEndpoints": {"liveness": "/health/liveness", "readiness": "/health/readiness"}}}


def test_the_signing_key_is_in_no_project(place):
    assert not [path for path in (place / "projects").rglob("*") if path.is_file() and SIGNING in path.read_text()]


def test_the_package_is_what_func_builds(place):
    project = tomllib.loads((place / "projects/client-0000/pyproject.toml").read_text())["project"]
    kdlib = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["name"] == "function"  # the name that func's builder asks for
    # +cpu is a version that PyTorch's index for the CPU has, and PyPI has not; otherwise that of the driving process.
    torch = version("torch").partition("+")[0]
    assert project["dependencies"] == [f"kdlib[functions,s3]=={kdlib['version']}", f"torch=={torch}+cpu"]


def test_a_store_in_a_volume_is_refused(tmp_path):
    wanted = deployment(tmp_path, 'kind = "volume"\nsize = "1Gi"\ndriver = "file:///tmp/x"')
    with pytest.raises(KdlibError, match=r"aggregator has its store in a volume, .* allowed: a store in S3"):
        write(wanted, tmp_path / "projects")
    assert not (tmp_path / "projects").exists()
    with pytest.raises(KdlibError, match="store in a volume"):
        func_yaml(wanted.services["client-0000"])


def test_what_func_has_noted_in_an_old_folder_stays(tmp_path):
    wanted = deployment(tmp_path)
    (tmp_path / "projects").mkdir()
    write(wanted, tmp_path / "projects")
    before = settings_of(tmp_path, "client-0001")
    with pytest.raises(KdlibError, match="is there already; allowed: a new folder"):
        write(wanted, tmp_path / "projects")
    assert settings_of(tmp_path, "client-0001") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifests", "projects", "values.toml"]
