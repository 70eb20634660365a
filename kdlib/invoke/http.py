"""Steps as HTTP calls to functions, wherever they run: each client's own, and the aggregators."""

import asyncio
import concurrent.futures
import contextlib
import os
import queue
import ssl
import threading
import time
import uuid
from collections.abc import AsyncIterator, Generator, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import httpx
import tenacity
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kdlib.errors import KdlibError
from kdlib.files import content
from kdlib.invoke.answers import ask
from kdlib.invoke.invokers import Base, Outcome
from kdlib.invoke.metrics import expect_record
from kdlib.invoke.steps import Record, Step
from kdlib.invoke.strategy import strategy_of
from kdlib.invoke.tokens import AGGREGATOR, SIGNING_KEY, Call, read_key, signing_key, token
from kdlib.settings.experiment import Experiment
from kdlib.store.store import Store
from kdlib.toml import one_line

LARGEST = 64 * 2**20  # bytes of an endpoints file; a function takes about a hundred
CONNECT = 5.0
KEPT_OPEN = 2.0  # seconds of an idle connection: less than a function keeps it, or a call is sent into a closing one

TRIES = 8  # of a Step: with the waits below, about 20 seconds of an unreachable function or store
WAIT = tenacity.wait_exponential_jitter(multiplier=0.2, max=5.0, jitter=0.2)
# The token came twice, too busy, not there yet, too late. A Step may be asked for again, with a new token.
PASSING = {409, 429, 502, 503, 504}

URL = Annotated[str, Field(pattern=r"^https?://[^/?#\s]+/?$")]

Outcomes = queue.SimpleQueue[tuple[Step, Record | Exception] | None]
"""What became of each Step; None once no more come."""


class Endpoint(BaseModel):
    """Where a function is. host: the Host header behind an ingress; others: of the same function's further copies."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: URL
    host: str | None = None
    others: tuple[URL, ...] = ()


class Endpoints(BaseModel):
    """The endpoints file. functions: name (`client-0000` ..., `aggregator`) -> Endpoint; store: URL of their stores."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    functions: dict[str, Endpoint]
    store: str | None = None


class Failed(KdlibError):
    """A Step that its function did not carry out. status: of the last answer, None where there was none."""

    def __init__(self, step: Step, reason: str, status: int | None, damaged: str | None = None) -> None:
        super().__init__(f"{step.name} of {step.subject} in round {step.round}: {reason}")
        self.step, self.status, self.damaged = step, status, damaged


class Http(Base):
    """A Stage's Steps side by side, each one POST to its subject's function.

    endpoints: function -> Endpoint; key: signs a token for each call; concurrency: calls at a time at most;
    timeouts: seconds by step name, over what the strategy declares; tries: of one Step, with growing waits in between;
    store: URL below which the functions look for a run's objects.
    What may pass is tried again: a lost or refused connection, no whole answer in time, and PASSING. A function
    carries a Step out once, whatever the number of calls, and answers the first Record to each. How much of an answer
    is read, says kdlib.invoke.answers.
    """

    name = "http"
    patient = True
    replays = False

    def __init__(self, endpoints: Mapping[str, Endpoint], key: str, concurrency: int = 32,
                 timeouts: Mapping[str, float] | None = None, tries: int = TRIES, store: str | None = None) -> None:
        self.endpoints, self.key, self.store = dict(endpoints), signing_key(key), store
        self.concurrency, self.timeouts, self.tries = concurrency, dict(timeouts or {}), tries
        self._loop: asyncio.AbstractEventLoop | None = None
        self._calls: set[concurrent.futures.Future[None]] = set()

    @classmethod
    def from_file(cls, path: str | Path, **settings: Any) -> "Http":
        """By the endpoints file, and KDLIB_SIGNING_KEY or else the key that `python -m faas up` left beside the file.

        Raises KdlibError where the file or the key is missing or malformed.
        """
        path = Path(path)
        beside = path.with_suffix(".key")
        try:
            there = Endpoints.model_validate_json(content(path, LARGEST))
            key = os.environ.get(SIGNING_KEY) or (read_key(beside) if beside.exists() else "")
        except OSError as error:
            raise KdlibError(f"cannot read {error.filename}: {error.strerror}; `python -m faas up` or `endpoints` "
                             "writes the endpoints file") from error
        except ValidationError as error:
            raise KdlibError(f"{path} is no endpoints file: {one_line(error)}") from error
        return cls(there.functions, key, store=there.store, **settings)

    def run(self, key: str, experiment: Experiment, store: Store, steps: list[Step]) -> Iterator[Record]:
        """See Invoker.run; the functions reach the store by themselves. Raises Failed at the first Step that failed."""
        with contextlib.closing(self.attempt(key, experiment, store, steps)) as outcomes:
            for _, outcome in outcomes:
                if isinstance(outcome, KdlibError):
                    raise outcome
                yield outcome

    def attempt(self, key: str, experiment: Experiment, store: Store,
                steps: list[Step]) -> Generator[Outcome, None, None]:
        """What became of each Step, as they come. Closed early, it gives up what is still waiting.

        Raises KdlibError where a Step has no function, before the first call.
        """
        if missing := sorted({self._function(step) for step in steps} - set(self.endpoints)):
            raise KdlibError(f"no endpoint of {', '.join(missing[:3])}{' ...' * (len(missing) > 3)}; there are "
                             f"{len(self.endpoints)} functions, of other subjects")
        outcomes: Outcomes = queue.SimpleQueue()
        calls = asyncio.run_coroutine_threadsafe(self._all(key, experiment, steps, outcomes), self._started())
        calls.add_done_callback(lambda _: outcomes.put(None))
        self._calls.add(calls)
        left = list(steps)
        try:
            while left:
                said = outcomes.get()
                if said is None:  # cancelled; nothing else leaves a Step without an outcome
                    yield from ((step, Failed(step, "given up", None)) for step in left)
                    return
                step, outcome = said
                if isinstance(outcome, BaseException) and not isinstance(outcome, KdlibError):
                    raise outcome  # a mistake in here, which nobody should take for a late client
                left.remove(step)
                yield step, outcome
        finally:
            self._calls.discard(calls)
            calls.cancel()

    def cancel(self) -> None:
        """Give up what is waiting, from any thread; a Step that is given up fails with that reason."""
        for calls in list(self._calls):
            calls.cancel()

    def close(self) -> None:
        """Give up what is waiting and close all connections; the next call opens new ones."""
        if self._loop:
            self.cancel()
            asyncio.run_coroutine_threadsafe(self._client.aclose(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            self._loop = None

    def _started(self) -> asyncio.AbstractEventLoop:
        """The event loop of all calls, in a thread of its own, so that a waiting call can be given up."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name="kdlib-http", daemon=True)
            self._thread.start()
            # No proxy of the environment gets to see a token; certificates are the system's.
            self._client = httpx.AsyncClient(
                trust_env=False, verify=ssl.create_default_context(),
                limits=httpx.Limits(max_connections=None, keepalive_expiry=KEPT_OPEN))
            self._free: dict[str, asyncio.Queue[str]] = {}
        return self._loop

    def _seconds(self, experiment: Experiment, step: Step) -> float:
        """How long to wait for the Step, the time in its function's line included."""
        strategy = strategy_of(experiment)
        return sum(self.timeouts.get(part.name, strategy.step(part.name).seconds) for part in step.parts)

    @staticmethod
    def _function(step: Step) -> str:
        return step.subject if step.subject.startswith("client-") else AGGREGATOR

    async def _all(self, key: str, experiment: Experiment, steps: list[Step], outcomes: Outcomes) -> None:
        places = asyncio.Semaphore(max(1, min(len(steps), self.concurrency)))

        async def one(step: Step) -> None:
            async with places:
                try:
                    outcomes.put((step, await self._step(key, experiment, step)))
                except Exception as error:
                    outcomes.put((step, error))

        await asyncio.gather(*(one(step) for step in steps))

    async def _step(self, key: str, experiment: Experiment, step: Step) -> Record:
        """The Step's Record, with what the caller knows: all of its own time, waits and repetitions among it."""
        sent, clock = time.time(), time.perf_counter()
        retrying = tenacity.AsyncRetrying(retry=tenacity.retry_if_exception_type(_Passing), wait=WAIT,
                                          stop=tenacity.stop_after_attempt(self.tries), reraise=True)
        try:
            seconds = self._seconds(experiment, step)
            record: Record = await retrying(self._post, key, experiment, step, seconds, uuid.uuid4().hex)
        except _Passing as error:
            raise Failed(step, f"{error}, {self.tries} times", error.status) from error
        around = max(0.0, time.perf_counter() - clock - record.seconds)
        return record.model_copy(update={"around": around, "queue": min(around, max(0.0, record.started - sent))})

    async def _post(self, key: str, experiment: Experiment, step: Step, seconds: float, request: str) -> Record:
        function = self._function(step)
        call = Call(key, step, experiment.fingerprint())
        async with self._place(function) as url:
            # Signed only now: to wait for a place may take longer than a token lives.
            headers = {"Authorization": f"Bearer {token(self.key, function, call)}", "X-Request-Id": request}
            if host := self.endpoints[function].host:
                headers["Host"] = host
            try:
                async with asyncio.timeout(seconds):  # httpx's own begins anew with every byte
                    answer = await ask(self._client, url, headers, call.body,
                                       httpx.Timeout(seconds, connect=CONNECT, pool=None))
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                raise _Passing(f"{url} cannot be reached") from error
            except (httpx.TimeoutException, TimeoutError) as error:
                raise _Passing(f"{url} did not answer within {seconds:g} seconds") from error
            except httpx.TransportError as error:
                raise _Passing(f"{url} hung up without an answer (did the function end, at its memory limit?)") \
                    from error
        if answer.status in PASSING:
            raise _Passing(f"{url} answered {answer.status}: {answer.reason}", answer.status)
        if answer.status != 200:
            raise Failed(step, f"{url} answered {answer.status}: {answer.reason}", answer.status, answer.damaged)
        if answer.unfit:
            raise Failed(step, f"{url} answered {answer.unfit}", 200)
        try:
            record = Record.model_validate_json(answer.content)
        except ValidationError as error:
            raise Failed(step, f"{url} answered what is no Record: {one_line(error)}", 200) from error
        try:
            expect_record(record, key, experiment, [step])
        except KdlibError as error:
            raise Failed(step, f"{url} answered what cannot be: {error}", 200) from error
        return record

    @contextlib.asynccontextmanager
    async def _place(self, function: str) -> AsyncIterator[str]:
        """A URL to call: of several copies one that is free; a single one keeps its own line, or scales itself."""
        endpoint = self.endpoints[function]
        if not endpoint.others:
            yield endpoint.url
            return
        if function not in self._free:
            self._free[function] = asyncio.Queue()
            for url in (endpoint.url, *endpoint.others):
                self._free[function].put_nowait(url)
        url = await self._free[function].get()
        try:
            yield url
        finally:
            self._free[function].put_nowait(url)


class _Passing(Exception):
    """Worth another try."""

    def __init__(self, reason: str, status: int | None = None) -> None:
        super().__init__(reason)
        self.status = status
