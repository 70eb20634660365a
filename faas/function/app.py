"""The function as an ASGI app: POST / carries out one Step and answers its Record.

    POST /              {"run": KEY, "round": 3, "step": "digest", "subject": "client-0004"}, a bearer token
    /health/liveness    200 while the process answers
    /health/readiness   200 once it can take a Step

    200 the Record   400 no such JSON   401 no valid token   403 a token for something else, or another's Step
    404, 405         408, 413 a body too slow or too long    409 the token was used before
    422 the run, or what the Step needs, is not as it must be
    500 a mistake of ours   503 too many wait, or the store is away: the same call may succeed later   507 out of memory
Every answer but 200 is {"error": one line}, with "damaged": NAME where an object is the cause.
"""

import asyncio
import logging
import os
import re
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from faas.function.identity import Identity
from faas.function.instance import Instance
from kdlib.errors import KdlibError, Unreachable
from kdlib.invoke.steps import Step
from kdlib.invoke.tokens import Call, Forbidden, Spent, Unauthorised, Used
from kdlib.registry import NETWORKS, STRATEGIES
from kdlib.toml import one_line

LONGEST = 4096  # bytes of a body; a Step has about 100
PATIENCE = 10.0  # seconds that a body may take
LINE = 16  # calls that wait for their turn at most
LAST_WORDS = 0.5  # seconds between the last answer and the end of the process
STUCK = 70  # its exit status
REQUEST = re.compile(r"[A-Za-z0-9._-]{1,64}")

log = logging.getLogger("faas")


class Body(BaseModel):
    """What a request's body says; the types are strict, and nothing else may be in it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    run: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    round: Annotated[int, Field(ge=0, le=999)]
    step: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}([+>][a-z][a-z0-9_]{0,39}){0,7}$")]
    subject: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.:-]{0,119}$")]


class Refusal(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, reason: str, damaged: str | None = None, **headers: str) -> None:
        super().__init__(reason)
        self.status, self.damaged, self.headers = status, damaged, headers


class Door:
    """Where calls come in: each is checked, waits for its turn, and is answered."""

    def __init__(self, identity: Identity) -> None:
        self.identity, self.instance = identity, Instance(identity)
        self.spent, self.waiting = Spent(), 0
        self.turn = asyncio.Lock()
        # Steps have a thread of their own, so that health is answered meanwhile; one, whatever becomes of its caller.
        self.thread = ThreadPoolExecutor(1, "step")

    async def post(self, request: Request) -> Response:
        """See the module."""
        clock = time.perf_counter()
        given = request.headers.get("x-request-id", "")
        name = given if REQUEST.fullmatch(given) else uuid.uuid4().hex
        about: dict[str, object] = {"request": name, "function": self.identity.subject}
        trace = None
        try:
            answer = Response(await self._record(request, about), media_type="application/json")
        except ClientDisconnect:
            answer = Response(status_code=499)  # in the log alone; nobody listens any more
        except Exception as error:
            refusal = _refusal(error)
            trace = error if refusal.status == 500 else None
            answer = _refused(refusal.status, str(refusal), refusal.headers, refusal.damaged)
            about["reason"] = str(refusal)
        answer.headers["X-Request-Id"] = name
        about |= {"status": answer.status_code, "seconds": round(time.perf_counter() - clock, 4)}
        level = {2: logging.INFO, 5: logging.ERROR}.get(answer.status_code // 100, logging.WARNING)
        log.log(level, "answered", extra={"about": about}, exc_info=trace)
        return answer

    async def _record(self, request: Request, about: dict[str, object]) -> str:
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        claims = self.identity.admit(token.strip() if kind.lower() == "bearer" else "")
        content = await _body(request)
        try:
            body = Body.model_validate_json(content)
        except ValidationError as error:
            raise Refusal(400, f"not a Step: {one_line(error)}") from error
        about |= body.model_dump()
        call = Call(body.run, Step(body.step, body.round, body.subject), claims.call.experiment)
        claims.expect(call, content)
        self.spent.spend(claims)
        if self.waiting >= LINE:
            raise Refusal(503, f"{LINE} calls wait already; try again", **{"Retry-After": "1"})
        self.waiting += 1
        try:
            async with self.turn:
                if await request.is_disconnected():  # it will come again, or has given up
                    raise ClientDisconnect
                log.info("begun", extra={"about": about})
                return await self._in_time(call)
        finally:
            self.waiting -= 1

    async def _in_time(self, call: Call) -> str:
        """The Step's Record; where it does not come, this process ends once that is said: nothing else frees it."""
        loop, seconds = asyncio.get_running_loop(), self.identity.deadline * len(call.step.parts)
        carried_out = loop.run_in_executor(self.thread, self.instance.carry_out, call)
        try:
            return await asyncio.wait_for(asyncio.shield(carried_out), seconds)
        except TimeoutError as error:
            if carried_out.done():  # the Step's own error
                raise
            loop.call_later(LAST_WORDS, os._exit, STUCK)
            raise Refusal(503, f"the Step did not end within {seconds:g} seconds; the function begins anew "
                               "(KDLIB_DEADLINE sets that time)", **{"Retry-After": "1"}) from error


def make_app(identity: Identity) -> Starlette:
    """The ASGI app of one instance of a function, with all strategies and networks that it knows.

    Raises KdlibError where a plugin that KDLIB_PLUGINS names cannot be imported.
    """
    for registry in (STRATEGIES, NETWORKS):  # now: else the first Step would wait for the imports
        registry.names()
    app = Starlette(
        routes=[Route("/", Door(identity).post, methods=["POST"]),
                Route("/health/liveness", _well), Route("/health/readiness", _well)],
        exception_handlers={HTTPException: lambda _, error: _refused(error.status_code, error.detail, error.headers)})
    app.router.redirect_slashes = False
    return app


async def _well(request: Request) -> Response:
    return Response("well\n", media_type="text/plain")  # nothing listens before all is imported and configured


async def _body(request: Request) -> bytes:
    """The body, of at most LONGEST bytes, which must come within PATIENCE."""
    body = bytearray()
    try:
        async with asyncio.timeout(PATIENCE):
            async for chunk in request.stream():
                body += chunk
                if len(body) > LONGEST:
                    raise Refusal(413, f"the body is longer than {LONGEST} bytes", Connection="close")
    except TimeoutError as error:
        raise Refusal(408, f"the body did not come within {PATIENCE:g} seconds", Connection="close") from error
    return bytes(body)


def _refusal(error: Exception) -> Refusal:
    """What the caller is told of the error: one line, and never a traceback."""
    line = " ".join(str(error).split())[:500]
    match error:
        case Refusal():
            return error
        case Unauthorised():
            return Refusal(401, line, **{"WWW-Authenticate": "Bearer"})
        case Forbidden():
            return Refusal(403, line)
        case Used():
            return Refusal(409, line)
        case Unreachable():
            return Refusal(503, line, **{"Retry-After": "1"})
        case KdlibError():
            return Refusal(422, line, error.damaged)
        case MemoryError() | RuntimeError() if isinstance(error, MemoryError) or "DefaultCPUAllocator" in line:
            return Refusal(507, "the Step needs more memory than this function may have")
    return Refusal(500, f"the Step failed: {type(error).__name__}: {line}")


def _refused(status: int, reason: str, headers: dict[str, str] | None = None, damaged: str | None = None) -> Response:
    return JSONResponse({"error": reason} | ({"damaged": damaged} if damaged else {}), status, headers)
