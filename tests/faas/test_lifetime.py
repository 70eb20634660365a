"""A function's life: how it starts, what cannot hold it up, and how it ends."""

import os
import signal
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from faas.function import app
from functions import ROOT, SIGNING, Function, deployed, tiny
from kdlib.invoke.tokens import public_of
from kdlib.store.store import Store


def test_sigterm_lets_the_step_in_hand_end_well(place, slow, tmp_path):
    store = Store(f"{place}/store/{{owner}}/{slow}")
    for name in [name for name in store.names() if name.startswith("client-0000/records")]:
        store.delete(name)
    with Function("client-0000", f"file://{place}/store/{{owner}}", tmp_path / "log") as function, \
            ThreadPoolExecutor(1) as threads:
        running = threads.submit(function.step, "transfer", 0, run=slow)
        function.await_step("transfer")
        function.process.send_signal(signal.SIGTERM)
        answer = running.result()
        assert answer.status_code == 200 and store.exists("client-0000/records/000-client-0000-transfer")
        assert function.process.wait(120) == 0


def test_a_stuck_step_ends_its_function_once_that_is_said(place, aggregator, tmp_path):
    run = "d" * 16
    deployed(f"{place}/store/{{owner}}", tiny("fedmd", seed=2, transfer_patience=100, samples=200,
                                              transfer_epochs=1000), run)
    assert aggregator.step("pretrain", 0, "cnn2-128-256", run=run).status_code == 200
    with Function("client-0000", f"file://{place}/store/{{owner}}", tmp_path / "log", KDLIB_DEADLINE="1") as function:
        answer = function.step("transfer", 0, run=run)
        assert answer.status_code == 503 and "did not end within 1 seconds" in answer.json()["error"]
        assert function.process.wait(20) == app.STUCK
        assert Store(f"{place}/store/{{owner}}/{run}").names().count("client-0000/000/weights") == 0
    assert '"status": 503' in function.log.read_text()


@pytest.mark.parametrize("plant", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero"),
                                   lambda path: path.symlink_to(path)], ids=["pipe", "folder", "zero", "loop"])
def test_what_lies_in_an_objects_place_blocks_no_function(plant, client, place):
    run = uuid.uuid4().hex[:16]
    deployed(f"{place}/store/{{owner}}", tiny("fedmd"), run)
    folder = place / f"store/public/{run}/000"
    folder.mkdir()
    plant(folder / "cnn2-128-256.safetensors")
    answer = client.step("transfer", 0, run=run)
    assert answer.status_code == 422 and answer.json()["damaged"] == "public/000/cnn2-128-256", answer.text


@pytest.mark.parametrize(("name", "value", "said"), [
    ("KDLIB_SUBJECT", "client-1", "KDLIB_SUBJECT is 'client-1'; allowed: aggregator, or client- and four digits"),
    ("KDLIB_STORE", "/store", "KDLIB_STORE is '/store'; allowed: a URL with {owner} in it"),
    ("KDLIB_PUBLIC_KEYS", "short", "KDLIB_PUBLIC_KEYS holds what is no public key"),
    ("KDLIB_PUBLIC_KEYS", SIGNING, "KDLIB_PUBLIC_KEYS holds what is no public key"),
    ("KDLIB_PUBLIC_KEYS", ",".join([public_of(SIGNING)] * 3), "KDLIB_PUBLIC_KEYS holds what is no public key"),
    ("KDLIB_PUBLIC_KEYS", "", "KDLIB_PUBLIC_KEYS holds no key"),
    ("PORT", "0", "PORT is '0'; allowed: 1 to 65535"),
    ("KDLIB_DEADLINE", "0", "KDLIB_DEADLINE is '0'; allowed: 1 to 604800 seconds"),
    ("KDLIB_DEADLINE", "soon", "KDLIB_DEADLINE is 'soon'; allowed: 1 to 604800 seconds"),
])
def test_a_wrong_environment_is_one_line(name, value, said, tmp_path):
    function = Function("client-0000", "/store/{owner}", tmp_path / "log", **{name: value})
    assert function.process.wait(120) == 2
    (line,) = function.log.read_text().splitlines()
    assert line.startswith(f"faas: {said}")


def test_a_cold_start_loads_only_what_a_step_needs():
    code = ("from faas.function.lean import hide; hide(); import sys\n"
            "from faas.function.app import make_app\n"
            "from faas.function.identity import from_environment\n"
            f"make_app(from_environment({{'KDLIB_SUBJECT': 'aggregator', 'KDLIB_STORE': '/{{owner}}', "
            f"'KDLIB_PUBLIC_KEYS': '{public_of(SIGNING)}'}}))\n"
            "print('kdlib.strategies.fedmd' in sys.modules, 'kdlib.learning.networks.lstm' in sys.modules)\n"
            "print(sorted({'ray', 'matplotlib', 'pandas', 'pyarrow', 'scipy', 'sklearn', 'lightning', 'torchmetrics',"
            "'s3fs', 'filelock', 'typer'} & {name for name, module in sys.modules.items() if module}))\n"
            "import kdlib.learning.training\n"
            "print('lightning' in sys.modules, sys.modules['matplotlib'], sys.modules['scipy'])")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
                          capture_output=True, text=True)
    assert done.stdout.splitlines() == ["True True", "[]", "True None None"], done.stderr
