"""Runs with faults: a driving process, functions and a store, real TCP between them, and a plan of what goes wrong."""

import ctypes
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from hostile import ANSWERED, PLANTED, SPOILT, plant, restore
from proxies import Proxy, StoreRelay

from faas.cluster.access import policy
from functions import ROOT, SIGNING
from kdlib.data import sets
from kdlib.invoke.http import AGGREGATOR
from kdlib.invoke.steps import Step
from kdlib.invoke.tokens import PUBLIC_KEYS, accepted, public_of, token, verified
from kdlib.runs.run import Run, final_bytes, load
from kdlib.store.store import Store
from servers import BUCKET

TIMEOUT = 1.5  # seconds that the caller waits for a Step here
LATE = 1.8  # seconds after which a reply comes that is too late for it
DEADLINE = 4.0  # seconds that a round's stage waits for its clients, where it does not wait for ever
AWAY = 1.0  # seconds that a store is out of reach
LONGEST = 300.0  # seconds in which a run must end

KILLED = {"killed before its write": "before", "killed during its write": "during", "killed after its write": "after",
          "killed after its Record": "recorded"}
LEFT_OUT = "left out"  # which changes the final bytes, and so is not one of those below
KINDS = (*KILLED, "reply lost", "reply too late", "call doubled", "call replayed after the run", "store away",
         "driver killed", *ANSWERED, *SPOILT)
IN_A_FOLDER = tuple(PLANTED)

LINE = re.compile(r"(Failed|Damaged|KdlibError|NotAFile|FileNotFoundError|FileExistsError): .{20,600}$")
AT_FDCWD, EXCHANGE = -100, 2  # fcntl.h, linux/fs.h


class Fault(NamedTuple):
    """What happens to a Step when it is first asked for."""

    kind: str
    step: Step


class Arena:
    """A store, and functions for `clients`, in which experiments are run again and again.

    s3: the server of the store, or None for a folder. struck: how often each kind of fault has happened; wrong: what
    should not have.
    """

    def __init__(self, folder: Path, clients: tuple[str, ...], s3=None):
        self.folder, self.s3 = folder, s3
        self.place = f"s3://{BUCKET}/{folder.name}" if s3 else str(folder / "store")
        self.plan: dict[Step, str] = {}
        self.preparing, self.seen = threading.Lock(), threading.Event()
        self.struck, self.wrong = Counter(), []
        self.mends, self.replays = [], []
        self.excused, self.runs = False, 0
        self.pids: dict[str, int] = {}
        self.driver_status: int | None = None
        self.driver_ended = threading.Event()
        self.host = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("host.py"))], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
        threading.Thread(target=self._listen, daemon=True).start()
        self.relays: dict[str, StoreRelay] = {}
        self.proxies = {name: self._serve(name) for name in (*clients, AGGREGATOR)}
        functions = {name: {"url": proxy.url} for name, proxy in self.proxies.items()}
        (folder / "endpoints.json").write_text(json.dumps({"functions": functions, "store": self.place}))
        (folder / "endpoints.key").write_text(SIGNING)

    def close(self) -> None:
        """End all of it."""
        self.host.stdin.close()
        self.host.wait()
        for proxy in self.proxies.values():
            proxy.close()
        for relay in self.relays.values():
            relay.shut()

    def run(self, experiment, faults=(), patience=None, inline=False) -> Run:
        """Carry the experiment out anew, with these faults; it is started again as a user would start it."""
        self._forget(experiment.key(sets.prepare(experiment).hashes))
        self.runs += 1
        runs = self.folder / f"runs-{self.runs}"
        self.plan = {fault.step: fault.kind for fault in faults}
        deadline = time.monotonic() + LONGEST
        while True:
            self.excused = False
            self._drive(experiment, runs, patience, inline)
            if not self.driver_ended.wait(max(0, deadline - time.monotonic())):
                raise TimeoutError(f"run {self.runs} did not end within {LONGEST:g} seconds")
            for mend in self.mends:
                mend()
            self.mends = []
            done = [load(path.parent) for path in runs.glob("*/result.json")]
            if self.driver_status == 0 and done:
                self._replay(done[0])
                return done[0]
            if not self.excused:
                raise AssertionError(f"run {self.runs} ended with {self.driver_status}: {self.said()}")
            if self.driver_status == 2 and not LINE.match(self.said()):
                self.wrong.append((self.runs, "no clear line", self.said()))

    def said(self) -> str:
        """The last line of the driving process."""
        lines = (self.folder / "driver.log").read_text().splitlines()
        return lines[-1] if lines else "nothing"

    def _forget(self, key):
        """Objects of an earlier run would be taken for those of the next one of the same experiment."""
        store = self._store(key)
        for name in store.names():
            store.delete(name)

    def _store(self, key):
        return Store(f"{self.place}/{{owner}}/{key}")

    def _listen(self):
        for line in self.host.stdout:
            said = json.loads(line)
            if "pid" in said:
                self.pids[said["name"]] = said["pid"]
            elif said["name"] == "driver":
                self.driver_status = said["status"]
                self.driver_ended.set()

    def _tell(self, **command):
        self.host.stdin.write(json.dumps(command) + "\n")
        self.host.stdin.flush()

    def _drive(self, experiment, runs, patience, inline):
        self.driver_ended.clear()
        self._tell(drive=experiment.model_dump_json(), runs=str(runs), patience=patience, timeout=TIMEOUT,
                   endpoints=None if inline else str(self.folder / "endpoints.json"), invoker="inline",
                   environment=self.s3.admin if self.s3 else {}, log=str(self.folder / "driver.log"))

    def _serve(self, name) -> Proxy:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        environment = {"KDLIB_SUBJECT": name, PUBLIC_KEYS: public_of(SIGNING), "PORT": str(port), "HOST": "127.0.0.1",
                       "KDLIB_STORE": f"{self.place}/{{owner}}"}
        if self.s3:  # credentials of its own, and a connection of its own
            environment |= self.s3.user(f"{self.folder.name}-{name}", *policy(name, self.place)["Statement"])
            self.relays[name] = StoreRelay(self.s3.port)
            environment["AWS_ENDPOINT_URL"] = self.relays[name].url
        self._tell(function=name, environment=environment, orders=str(self.folder / f"{name}.orders"),
                   log=str(self.folder / f"{name}.log"))
        return Proxy(port, lambda step, request: self._strike(name, step, request))

    def _strike(self, name, step, request) -> bytes | None:
        forward = self.proxies[name].forward
        if self.plan.get(step) == LEFT_OUT:  # however often it is asked
            time.sleep(DEADLINE + 0.7)
            return forward(request)
        with self.preparing:  # a call that comes again meanwhile must not find what the fault has yet to spoil
            kind = self.plan.pop(step, None)
            spoilt = self._spoil(kind, step, json.loads(_body(request))["run"]) if kind in (*SPOILT, *PLANTED) else None
        if kind is None:
            return forward(request)
        self.struck[kind] += 1
        if kind in KILLED:
            if self.s3 and KILLED[kind] == "during":
                self.relays[name].victim = self.pids[name]
            else:
                (self.folder / f"{name}.orders").write_text(KILLED[kind])
            return self._expect(step, kind, forward(request), nothing=True)
        if kind == "call doubled":
            with ThreadPoolExecutor(3) as calls:  # the same one comes twice, and the driver asks once more
                replies = list(calls.map(forward, (request, request, _signed_anew(name, request))))
            first = next(reply for reply in replies if not _used(reply))
            return self._expect(step, kind, first, *(reply for reply in replies if not _used(reply)))
        if spoilt:
            reply = forward(request)
            self.seen.set()
            if reply.split()[1] != b"422" or f'"damaged":"{spoilt}"'.encode() not in reply:
                self.wrong.append((step, kind, reply))
            return reply
        if kind in ANSWERED:
            self.excused = True
            return ANSWERED[kind](forward(request))
        if kind == "store away":
            self._take_away(name)
        if kind == "driver killed":
            self.excused = True
            os.kill(self.pids["driver"], signal.SIGKILL)
        began = time.monotonic()
        reply = forward(request)
        if kind == "reply lost":
            return self._expect(step, kind, reply) and None
        if kind == "reply too late":
            time.sleep(max(0, LATE - (time.monotonic() - began)))
        if kind == "call replayed after the run":
            self.replays.append((step, name, request, reply))
        return reply

    def _expect(self, step, kind, *replies, nothing=False) -> bytes | None:
        """Note what a fault was not meant to bring about."""
        if nothing != (replies[0] is None) or len({reply and _body(reply) for reply in replies}) > 1:
            self.wrong.append((step, kind, replies))
        return replies[0]

    def _replay(self, the_run):
        """Calls that come once more when all is over: none gets another Record than its first; nothing changes.

        Only a function that has begun anew since then takes a token for the second time.
        """
        for step, name, request, reply in self.replays:
            again = self.proxies[name].forward(request)
            asked = self.proxies[name].forward(_signed_anew(name, request))
            self._expect(step, "call replayed after the run", reply, asked, *([] if _used(again) else [again]))
        self.replays = []
        if final_bytes(the_run, the_run.store) != the_run.result["final_bytes"]:
            self.wrong.append((self.runs, "the store changed after the run"))

    def _spoil(self, kind, step, key) -> str:
        """An object that the Step reads is not what it was, until the run has ended and a user has put it back."""
        self.excused = True
        store, name = self._store(key), reads(step)
        whole = store.content(name)
        self.seen.clear()
        # Another Step may read it, too, and end the run, before this one has.
        self.mends.append(lambda: self.seen.wait() and restore(store, name, whole))
        plant(kind, store, name)
        return name

    def _take_away(self, name):
        if self.s3:
            self.relays[name].away(AWAY)
            return
        self.excused = True
        back = threading.Event()
        self.mends.append(back.wait)
        instead = self.folder / "away"
        instead.touch()  # a file where the folder was: nothing can be made below it
        _exchange(instead, Path(self.place))
        threading.Timer(AWAY, lambda: (_exchange(instead, Path(self.place)), back.set())).start()


def reads(step: Step) -> str | None:
    """An object that the Step reads, and that an earlier one wrote; None where there is none."""
    client = step.subject if step.subject.startswith("client-") else "client-0000"
    architecture = step.subject if "cnn" in step.subject else ARCHITECTURES[int(client[-4:]) % len(ARCHITECTURES)]
    now, before = f"{step.round:03}", f"{step.round - 1:03}"
    return {
        "transfer": f"public/000/{architecture}", "communicate": f"{client}/{before}/weights",
        "aggregate": f"{client}/{now}/logits", "teach": f"{client}/{now}/logits",
        "digest": f"public/{now}/consensus", "revisit": f"{client}/{now}/digested",
        "distil": f"public/{now}/teacher", "train": f"public/{before}/{architecture}" if step.round > 1 else None,
        "evaluate": f"public/{now}/{architecture}" if "cnn" in step.subject else f"{client}/{now}/weights",
    }.get(step.name)


ARCHITECTURES = ("cnn2-128-256", "cnn3-64-128-256")


def _signed_anew(name: str, request: bytes) -> bytes:
    """The same request with another token of the driver's."""
    asked = json.loads(_body(request))
    bearer = request.partition(b"Bearer ")[2].partition(b"\r\n")[0]
    call = verified(bearer.decode(), accepted(public_of(SIGNING)), name).call
    assert call[:2] == (asked["run"], Step(asked["step"], asked["round"], asked["subject"]))
    return request.replace(bearer, token(SIGNING, name, call, _body(request)).encode())


def _used(reply: bytes | None) -> bool:
    return bool(reply) and reply.split()[1] == b"409"


def _body(message: bytes) -> bytes:
    return message.partition(b"\r\n\r\n")[2]


def _exchange(one: Path, other: Path) -> None:
    """Both names at once, so that nobody finds neither."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), EXCHANGE):
        raise OSError(ctypes.get_errno(), f"cannot exchange {one} and {other}")
