"""Functions in processes of their own, as the tests start and call them."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

from kdlib.data import sets
from kdlib.invoke.steps import Step
from kdlib.invoke.tokens import PUBLIC_KEYS, Call, public_of, token
from kdlib.runs import runner
from kdlib.settings.experiment import make_experiment
from kdlib.store.store import Store

ROOT = Path(__file__).parents[1]
SIGNING = "private-" + "0123456789abcdef" * 2 + "0123456789A"  # the driving process's
VOUCHED = {}  # key -> the fingerprint of the experiment that was deployed
KEY = "0123456789abcdef"
OTHER = "f" * 16  # of another run
TINY = {"architectures": ("cnn2-128-256", "cnn3-64-128-256"), "clients": 2, "rounds": 2, "samples": 20,
        "test_items": 20, "width": 0.03125}
TINY_FEDMD = TINY | {"public_items": 40, "alignment_items": 20, "pretrain_epochs": 1, "transfer_epochs": 1,
                     "revisit_epochs": 1}
TINY_FEDDF = TINY | {"clients_per_round": 2, "local_epochs": 1, "public_items": 40, "alignment_items": 20,
                     "validation_items": 20, "distil_batches": 2, "score_every": 1}


def tiny(strategy, seed=0, **settings):
    """An Experiment of milliseconds a Step."""
    base = {"fedmd": TINY_FEDMD, "feddf": TINY_FEDDF}[strategy]
    return make_experiment("digits", strategy, 1.0, seed, "smoke", **base | settings)


def deployed(url, experiment, key=KEY):
    """The store at `url` (with {owner}, without the key), with the experiment's data laid down in it."""
    store = Store(f"{url}/{key}")
    VOUCHED[key] = experiment.fingerprint()
    runner.deploy(experiment, sets.prepare(experiment), store)
    return store


def call_of(name, round_, subject="client-0000", run=KEY):
    """What the driver would ask."""
    return Call(run, Step(name, round_, subject), VOUCHED.get(run))


def headers_of(call, function="client-0000", body=None, **more):
    """Those of the driver's call, with a new token."""
    return {"Authorization": f"Bearer {token(SIGNING, function, call, body, **more)}"}


def await_ready(url, seconds=120.0):
    """Wait until the function there takes calls."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/health/readiness", trust_env=False).is_success:
                return
        time.sleep(0.05)
    raise TimeoutError(url)


class Function:
    """`python -m faas.function.server` on loopback, until the end of `with`."""

    def __init__(self, subject, store, log, command=(sys.executable, "-m", "faas.function.server"), **environment):
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.subject, self.log, self.url = subject, log, f"http://127.0.0.1:{self.port}"
        own = {"KDLIB_SUBJECT": subject, "KDLIB_STORE": store, PUBLIC_KEYS: public_of(SIGNING), "PORT": str(self.port),
               "HOST": "127.0.0.1", "LISTEN_ADDRESS": f"127.0.0.1:{self.port}", "PYTHONPATH": str(ROOT)}
        with log.open("w") as output:
            self.process = subprocess.Popen(command, env=os.environ | own | environment, cwd=ROOT, stderr=output)
        self.client = httpx.Client(base_url=self.url, trust_env=False, timeout=300)

    def __enter__(self):
        return self.ready()

    def __exit__(self, *_):
        self.client.close()
        self.process.kill()
        self.process.wait()

    def ready(self, seconds=120.0):
        """Wait until it answers."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if self.client.get("/health/readiness").status_code == 200:
                    return self
            except httpx.TransportError:
                time.sleep(0.02)
        raise RuntimeError(f"the function did not start: {self.log.read_text()[-2000:]}")

    def step(self, name, round_, subject=None, run=KEY):
        """POST a Step; the answer."""
        return self.ask(call_of(name, round_, subject or self.subject, run))

    def ask(self, call, body=None, **more):
        """POST the call, or else `body`, with a token for that; the answer."""
        return self.client.post("/", headers=headers_of(call, self.subject, body, **more),
                                content=call.body if body is None else body)

    def lines(self):
        """Its log."""
        return [json.loads(line) for line in self.log.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def begun(self, name):
        """How often it has begun the Step."""
        return sum(line["message"] == "begun" and line["step"] == name for line in self.lines())

    def await_step(self, name, times=1):
        """Wait until it has begun the Step so many times."""
        while self.begun(name) < times:
            time.sleep(0.01)
