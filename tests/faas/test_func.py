"""The function behind func-python's own server, as Knative's `func` starts it."""

import signal
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml

from functions import KEY, ROOT, Function, bearer_of, deployed, tiny
from kdlib.invoke.steps import Record
from kdlib.store.store import Store

# What `func build` writes around a function: its package is called `function` there.
MAIN = "from function import new; from func_python.http import serve; serve(new)"


def serve(subject, place, log, **environment):
    return Function(subject, f"file://{place}/store/{{owner}}", log, (sys.executable, "-c", MAIN),
                    PYTHONPATH=f"{ROOT}/faas:{ROOT}", PORT="1", **environment)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("functions")
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
    headers = {"Authorization": f"Bearer {bearer or bearer_of('client-0000')}"}
    answer = client.client.post(path, json=body, headers=headers)
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


def test_the_project_is_what_func_expects():
    func = yaml.safe_load((ROOT / "faas" / "func.yaml").read_text())
    assert (func["runtime"], func["specVersion"]) == ("python", "0.36.0")
    assert {env["name"] for env in func["run"]["envs"]} == {"KDLIB_SUBJECT", "KDLIB_STORE", "KDLIB_SECRETS"}
    project = tomllib.loads((ROOT / "faas" / "pyproject.toml").read_text())["project"]
    kdlib = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["name"] == "function"  # the name that func's builder asks for
    assert project["dependencies"] == [f"kdlib[functions,s3]=={kdlib['version']}"]
