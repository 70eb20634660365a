"""`python -m faas.local.supervisor FOLDER`: keeps local functions alive; all of them end when it ends, however it ends.

`python -m faas up` starts it and gives it a Plan on standard input; it says on standard output when all are ready, or
what is wrong. Each function holds the other end of a pipe as its standard input, and ends when that does.
"""

import asyncio
import contextlib
import fcntl
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import httpx
from pydantic import BaseModel

READY = "ready"
START = 300.0  # seconds that all functions together may take until they are ready
GRACE = 10.0  # seconds that a Step in hand has when the functions are taken down
SOON = 5.0  # seconds of a life so short that the next start waits
PAUSES = (0.2, 1.0, 5.0)  # seconds; the last one again and again


class Command(BaseModel):
    """How a function is started. environment: all of it; health: URL of its readiness."""

    name: str
    argv: list[str]
    environment: dict[str, str]
    health: str


class Plan(BaseModel):
    """What is to be kept alive, and the files (name -> text) that lie in the folder, for us alone, while it is."""

    commands: list[Command]
    files: dict[str, str]


class Supervisor:
    """Of one folder: log/NAME.log has what a function said, log/supervisor.log who ended and why."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder, self.plan = folder, plan
        self.running: dict[str, asyncio.subprocess.Process] = {}
        self.failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.ending = asyncio.Event()
        self.ready = False

    async def run(self) -> None:
        """Until SIGTERM or SIGINT, or a function that never became ready."""
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self.ending.set)
        keepers = [asyncio.create_task(self._keep(command)) for command in self.plan.commands]
        try:
            await self._until_ready()
            if not self.ending.is_set():
                for name, text in self.plan.files.items():
                    write_privately(self.folder / name, text)
                self.ready = True
                print(READY, flush=True)  # raises where nobody listens any more: then nobody wants the functions
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # which ends what `up` reads
                await self.ending.wait()
        finally:
            self.ending.set()
            await self._end(keepers)
            for name in self.plan.files:
                (self.folder / name).unlink(missing_ok=True)

    async def _keep(self, command: Command) -> None:
        short = 0
        while not self.ending.is_set():
            began = time.monotonic()
            with (self.folder / "log" / f"{command.name}.log").open("ab") as output:
                process = await asyncio.create_subprocess_exec(
                    *command.argv, env=command.environment, stdin=asyncio.subprocess.PIPE, stdout=output, stderr=output)
            self.running[command.name] = process
            status = await process.wait()
            del self.running[command.name]
            if self.ending.is_set():
                return
            said = f"{command.name} ended: {_why(status)}"
            self._log(said)
            if not self.ready and not self.failed.done():
                self.failed.set_result(f"{said}; {self._last_line(command)}")
            short = short + 1 if time.monotonic() - began < SOON else 0
            if short:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.ending.wait(), PAUSES[min(short, len(PAUSES)) - 1])

    async def _until_ready(self) -> None:
        waiting = asyncio.create_task(self._all_ready())
        ending = asyncio.create_task(self.ending.wait())
        awaited: set[asyncio.Future[Any]] = {waiting, ending, self.failed}
        done, _ = await asyncio.wait(awaited, timeout=START, return_when=asyncio.FIRST_COMPLETED)
        if self.failed in done or not done:
            late = f"not all functions were ready within {START:g} seconds"
            print(self.failed.result() if done else late, flush=True)
            self.ending.set()
        for task in (waiting, ending):
            task.cancel()

    async def _all_ready(self) -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
            for command in self.plan.commands:
                while True:
                    with contextlib.suppress(httpx.TransportError):
                        if (await client.get(command.health)).status_code == 200:
                            break
                    await asyncio.sleep(0.1)

    async def _end(self, keepers: list[asyncio.Task[None]]) -> None:
        for process in self.running.values():
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        _, late = await asyncio.wait(keepers, timeout=GRACE)
        for process in list(self.running.values()):
            assert process.stdin is not None  # a pipe, see `_keep`
            process.stdin.close()  # a container's last sign, as killing its client does not reach it
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        if late:
            await asyncio.wait(late)

    def _log(self, line: str) -> None:
        with (self.folder / "log" / "supervisor.log").open("a") as log:
            log.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {line}\n")

    def _last_line(self, command: Command) -> str:
        lines = (self.folder / "log" / f"{command.name}.log").read_text(errors="replace").splitlines()
        return lines[-1] if lines else "it said nothing"


def _why(status: int) -> str:
    """status: as subprocess has it; docker's own is 128 + the signal's number."""
    number = -status if status < 0 else status - 128
    if number == signal.SIGKILL:
        return "killed, by its memory limit or by hand"
    if 0 < number < 65:
        return f"by signal {number}"
    return f"exit status {status}"


def write_privately(path: Path, text: str) -> None:
    """Whole or not at all, for the user's eyes alone."""
    beside = path.with_name(f".{path.name}.part")
    beside.unlink(missing_ok=True)
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    beside.rename(path)


def main() -> None:
    """See the module."""
    folder = Path(sys.argv[1])
    held = (folder / "supervisor.pid").open("a+")  # it is locked until this process is gone
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"functions are up already in {folder}; `python -m faas down` ends them", flush=True)
        return
    held.truncate(0)
    held.write(str(os.getpid()))
    held.flush()
    plan = Plan.model_validate_json(sys.stdin.read())
    asyncio.run(_run(folder, plan))


async def _run(folder: Path, plan: Plan) -> None:
    await Supervisor(folder, plan).run()


if __name__ == "__main__":
    main()
