"""`python -m faas coldstart`: seconds from nothing to a function's first answer, and what a warm call costs."""

import contextlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Self

import httpx
import pandas as pd
from pydantic import BaseModel, ValidationError

from faas.cluster.values import load_values
from faas.local import launch, lifecycle
from kdlib.data import sets
from kdlib.errors import KdlibError
from kdlib.invoke.steps import Step
from kdlib.invoke.tokens import Call, make_key, token
from kdlib.learning import client
from kdlib.machine import machine
from kdlib.paper.bench.measure import COLD, Side, side
from kdlib.runs import runner
from kdlib.settings.experiment import make_experiment
from kdlib.store.store import Store

WARM = 30  # calls
FIRST = next(iter(COLD))
GOALS = {"process": 2.5, "container": 4.0}  # seconds to the first answer, where the first Step is FIRST, at most
WARM_GOAL = 0.01  # seconds of a warm call beside its Step, at most


class Cold(BaseModel):
    """Cold starts with one kind of first Step. All in seconds: median, least and most.

    listening: from the start until the function takes calls; work: in the Step; answered: from the start until its
    Record is there.
    """

    listening: Side
    work: Side
    answered: Side


class Coldstart(BaseModel):
    """What was measured.

    how: `process` or `container`; cold: by the first Step; starts: of each kind; warm: seconds of a warm function's
    call beside its Step's own.
    """

    how: str
    cold: dict[str, Cold]
    warm: Side
    starts: int
    machine: dict

    def rows(self) -> pd.DataFrame:
        """What kdlib.reports.figures.coldstarts draws."""
        return pd.DataFrame([
            {"how": self.how, "step": step, "listening": cold.listening.median, "work": cold.work.median,
             "answered": cold.answered.median, "low": cold.answered.low, "high": cold.answered.high}
            for step, cold in self.cold.items()])

    def text(self) -> str:
        """The same for a reader."""
        lines = [f"cold starts of a {self.how}, {self.starts} of each kind"]
        for step, cold in self.cold.items():
            answered, listening, work = cold.answered, cold.listening.median, cold.work.median
            lines.append(f"  {step:12} {answered.median:6.2f} s to the answer ({answered.low:.2f} to "
                         f"{answered.high:.2f}), {listening:.2f} until it takes calls, {work:.2f} in the Step")
        median, low, high = (seconds * 1e3 for seconds in (self.warm.median, self.warm.low, self.warm.high))
        lines.append(f"  {'warm call':12} {median:6.1f} ms beside the Step ({low:.1f} to {high:.1f}), {WARM} calls")
        return "\n".join(lines)


def load(path: str | Path) -> Coldstart:
    """What `python -m faas coldstart --json` wrote. Raises KdlibError where it is not there, or something else."""
    try:
        return Coldstart.model_validate_json(Path(path).read_text())
    except (OSError, ValidationError) as error:
        raise KdlibError(f"{path} holds no cold starts; make it with "
                         f"`python -m faas coldstart --json > {path}`") from error


def measure(docker: bool = False, starts: int = 5, image: str = "dev.local/kdlib:latest") -> Coldstart:
    """See Coldstart; starts: of each kind. Raises KdlibError where Docker or the image is not there."""
    if docker:
        lifecycle.expect_image(image)
    folder = Path(tempfile.mkdtemp(prefix="kdlib-coldstart-"))
    try:
        with _Ground(folder, docker, image) as ground:
            cold = {step: [ground.cold(step) for _ in range(starts)] for step in ground.keys}
            warm = ground.warm()
    finally:
        shutil.rmtree(folder)
    return Coldstart(
        how="container" if docker else "process", starts=starts, machine=machine(), warm=side(warm),
        cold={step: Cold(**{name: side([getattr(one, name) for one in found]) for name in Cold.model_fields})
              for step, found in cold.items()})


class _Once(NamedTuple):
    """See Cold."""

    listening: float
    work: float
    answered: float


class _Ground:
    """A store with the smoke runs of COLD, as far as a client's Steps need them, and one function for it."""

    def __init__(self, folder: Path, docker: bool, image: str) -> None:
        experiments = {step: make_experiment("digits", strategy, 1.0, profile="smoke", rounds=WARM + 1)
                       for step, strategy in COLD.items()}
        place = launch.Place(folder, None, experiments[FIRST].client_names, make_key(), None, True)
        unconfined = lifecycle.lay_out(place, docker)
        if docker:  # before anything is written below
            launch.let_containers_write(place)
        self.keys = {step: f"{number:016}" for number, step in enumerate(COLD)}
        for step, experiment in experiments.items():
            store = Store(f"{folder}/store/{{owner}}/{self.keys[step]}")
            runner.deploy(experiment, sets.prepare(experiment), store)
            for round_ in range(WARM + 1):
                client.save(store, f"client-0000/{round_:03}/weights", client.start(experiment, "client-0000"))
        (function,) = launch.functions(("client-0000",), None, load_values(), 0)[:1]
        if docker:
            self.command = launch.container(function, place, image)
        else:
            self.command = launch.process(function, place._replace(confined=unconfined is None))
        self.records = folder / "store" / "client-0000"
        self.key, self.vouched = place.key, {step: one.fingerprint() for step, one in experiments.items()}
        self.client = httpx.Client(base_url=function.url, trust_env=False, timeout=120)
        self.log = (folder / "log" / "function.log").open("ab")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.log.close()

    def cold(self, step: str) -> _Once:
        """A start whose first Step is this one."""
        for kept in self.records.glob("*/records"):
            shutil.rmtree(kept)  # or it would answer without any work
        with self._running() as (clock, listening):
            work = self._step(step, 1)
            return _Once(listening, work, time.perf_counter() - clock)

    def warm(self) -> list[float]:
        """Seconds of each call of a warm function beside its Step's."""
        with self._running():
            self._step(FIRST, 1)
            beside = []
            for round_ in range(2, WARM + 2):
                clock = time.perf_counter()
                work = self._step(FIRST, round_)
                beside.append(time.perf_counter() - clock - work)
            return beside

    @contextlib.contextmanager
    def _running(self) -> Iterator[tuple[float, float]]:
        clock = time.perf_counter()
        process = subprocess.Popen(self.command.argv, env=self.command.environment, stdin=subprocess.PIPE,
                                   stdout=self.log, stderr=self.log)
        try:
            while not self._listens():
                if process.poll() is not None:
                    said = (Path(self.log.name).read_text(errors="replace").splitlines() or ["it said nothing"])[-1]
                    raise KdlibError(f"the function ended while it started: {said}")
                time.sleep(0.005)
            yield clock, time.perf_counter() - clock
        finally:
            process.terminate()
            process.wait()

    def _listens(self) -> bool:
        try:
            return self.client.get("/health/readiness").is_success
        except httpx.TransportError:
            return False

    def _step(self, step: str, round_: int) -> float:
        call = Call(self.keys[step], Step(step, round_, "client-0000"), self.vouched[step])
        bearer = token(self.key, "client-0000", call)
        answer = self.client.post("/", headers={"Authorization": f"Bearer {bearer}"}, content=call.body)
        answer.raise_for_status()
        seconds: float = answer.json()["seconds"]
        return seconds
