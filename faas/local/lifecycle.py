"""`python -m faas up` and `down`: the same functions without a cluster, on loopback."""

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import TypeAdapter, ValidationError

from kdlib import registry
from kdlib.errors import KdlibError
from kdlib.settings.experiment import Experiment, from_json
from kdlib.toml import one_line

if TYPE_CHECKING:
    from faas.local.launch import Place
    from faas.local.supervisor import Plan

PATIENCE = 60.0  # seconds for functions to end, before they are killed

OURS = {"endpoints.json", "endpoints.key", "supervisor.pid", "containers", "log", "store", "view"}

Folder = Annotated[Path, typer.Option(help="For the endpoints file, logs, and the store.")]


def up(
    docker: Annotated[bool, typer.Option("--docker/--process", help="Containers of an image, or processes.")] = False,
    clients: Annotated[int | None, typer.Option(min=1, max=1000, help="How many; default: the experiment's.")] = None,
    experiment: Annotated[Path | None, typer.Option(help="What `kdlib experiment ...` prints: limits fit it.")] = None,
    folder: Folder = Path("functions"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="The first of consecutive ones; 0: any.")] = 0,
    store: Annotated[str | None, typer.Option(help="s3://BUCKET/PREFIX instead of the folder's own store.")] = None,
    credentials: Annotated[Path | None, typer.Option(help="With --store: a JSON file, function -> AWS_* variables; "
                                                          "default: yours for all of them.")] = None,
    values: Annotated[Path | None, typer.Option(help="A .toml file of what differs from "
                                                        "faas/cluster/values.toml.")] = None,
    image: Annotated[str, typer.Option(help="With --docker.")] = "dev.local/kdlib:latest",
) -> None:
    """Start every client's function and the aggregators', wait until they are ready, and say where they are.

    They live in the background until `python -m faas down`, and start again if one dies.
    """
    settings = _experiment(experiment) if experiment else None
    number = clients or (settings.clients if settings else None)
    if number is None:
        raise KdlibError("how many clients? allowed: --clients N, or --experiment FILE")
    if settings and number != settings.clients:
        raise KdlibError(f"--clients is {clients}, the experiment has {settings.clients}; allowed: one of them alone")
    if store and not store.startswith("s3://"):
        raise KdlibError(f"--store {store}: allowed: s3://BUCKET/PREFIX, or none for the folder's own")
    if credentials and not store:
        raise KdlibError("--credentials are for a store in S3; allowed: with --store s3://BUCKET/PREFIX")
    names = tuple(f"client-{index:04}" for index in range(number))
    folder = folder.absolute()
    if set(str(folder)) & set("{},:\n"):
        raise KdlibError(f"--folder {folder}: allowed: a path without braces, commas, colons and line breaks")
    from faas.cluster.values import load_values
    from faas.local import launch  # only now: a mistake is told before torch is loaded
    from faas.local.supervisor import Plan
    from kdlib.invoke.http import Endpoint, Endpoints
    from kdlib.invoke.tokens import AGGREGATOR, make_key

    registry.load_environment()
    if docker and (files := set(registry.plugins()) - set(registry.plugins(files=False))):
        raise KdlibError(f"containers do not have the file {min(files)}; allowed: a package in the image, by "
                         "`python -m faas image --with PACKAGE`, and no files as plugins here")
    with _starting(folder):
        place = launch.Place(folder, store and store.rstrip("/"), names, make_key(),
                             _credentials(credentials, (*names, AGGREGATOR)) if credentials else None, True)
        wanted = launch.functions(names, settings, load_values(values), port)
        kept = lay_out(place, docker)
        if docker:
            expect_image(image)
            launch.let_containers_write(place)
            commands = [launch.container(function, place, image) for function in wanted]
        else:
            place = place._replace(confined=kept is None)
            commands = [launch.process(function, place) for function in wanted]
        aggregators = [function.url for function in wanted if function.subject == AGGREGATOR]
        endpoints = {function.name: Endpoint(url=function.url) for function in wanted if function.name in names}
        endpoints[AGGREGATOR] = Endpoint(url=aggregators[0], others=tuple(aggregators[1:]))
        there = Endpoints(functions=endpoints, store=place.store or str(folder / "store"))
        _supervise(folder, Plan(commands=commands, files={
            "endpoints.key": place.key, "endpoints.json": there.model_dump_json(indent=2, exclude_none=True)}))
    typer.echo(f"{len(commands)} functions are up: --invoker http --endpoints {folder / 'endpoints.json'}")
    if kept and not docker:
        typer.echo(f"They are not kept apart: this system lets no process have a view of its own ({kept}). Where that "
                   "matters use --docker, or --store with --credentials.", err=True)


def down(folder: Folder = Path("functions")) -> None:
    """End the functions that `up` started; what they wrote stays in FOLDER/store, and what they said in FOLDER/log."""
    folder = folder.absolute()
    if not (folder / "supervisor.pid").exists():
        raise KdlibError(f"{folder} has no functions; allowed: the --folder that was given to `up`")
    pid = _supervisor(folder)
    if pid:
        _end(folder, pid)
    if (folder / "containers").exists():
        _remove_containers(folder)
    for name in ("endpoints.json", "endpoints.key", "containers"):
        (folder / name).unlink(missing_ok=True)
    for torn in (folder / "store").rglob("*.part"):  # of a function that was killed while it wrote
        torn.unlink()
    with contextlib.suppress(OSError):
        (folder / "view").rmdir()
    (folder / "supervisor.pid").unlink()
    typer.echo("the functions are down" if pid else f"no functions were up in {folder}")


def _experiment(path: Path) -> Experiment:
    try:
        return from_json(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise KdlibError(f"{path} is no experiment: it is not text") from error


def _credentials(path: Path, needed: tuple[str, ...]) -> dict[str, dict[str, str]]:
    try:
        found = TypeAdapter(dict[str, dict[str, str]]).validate_json(path.read_bytes())
    except ValidationError as error:
        raise KdlibError(f"{path} holds no credentials: {one_line(error)}") from None  # they would be shown
    if missing := [name for name in needed if name not in found]:
        raise KdlibError(f"{path} has no credentials of {missing[0]}; allowed: one for each of {len(needed)} functions")
    return found


@contextlib.contextmanager
def _starting(folder: Path) -> Iterator[None]:
    """The folder is there, and nobody else's; it is not left behind, where it was made for what failed."""
    fresh = not folder.exists()
    if not fresh and (strange := sorted({path.name for path in folder.iterdir()} - OURS)):
        raise KdlibError(f"{folder} holds {strange[0]}; allowed: a new --folder, or one that `up` made")
    if _supervisor(folder):
        raise KdlibError(f"functions are up already in {folder}; `python -m faas down --folder {folder}` ends them")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if fresh:
            shutil.rmtree(folder)
        raise


def lay_out(place: "Place", docker: bool) -> str | None:
    """The folders; returns why processes cannot be confined to theirs, None where they can."""
    from faas.function.confinement import VIEW, possible

    shutil.rmtree(place.folder / "log", ignore_errors=True)
    (place.folder / "log").mkdir()
    if docker:
        (place.folder / "containers").touch()
    if place.store:
        return None
    for owner in place.owners:
        (place.folder / "store" / owner).mkdir(parents=True, exist_ok=True)
    (place.folder / VIEW).mkdir(exist_ok=True)
    return None if docker else possible(place.folder)


def _supervise(folder: Path, plan: "Plan") -> None:
    """Start the supervisor and wait until it has said its one line. Raises KdlibError where that is not `ready`."""
    from faas.local.launch import python_path
    from faas.local.supervisor import READY

    with (folder / "log" / "supervisor.log").open("ab") as log:
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "faas.local.supervisor", str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=log, start_new_session=True, text=True, env=os.environ | {"PYTHONPATH": python_path()})
    assert supervisor.stdin is not None and supervisor.stdout is not None  # pipes
    try:
        supervisor.stdin.write(plan.model_dump_json())
        supervisor.stdin.close()
        said = supervisor.stdout.readline().strip()
    except BaseException:
        supervisor.terminate()
        raise
    if said != READY:
        supervisor.wait()
        raise KdlibError(said or f"the supervisor ended; {folder / 'log' / 'supervisor.log'} says why")


def _supervisor(folder: Path) -> int | None:
    """The id of the process that keeps the folder's functions, None where there is none."""
    with contextlib.suppress(FileNotFoundError), (folder / "supervisor.pid").open() as held:
        try:
            fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return int(held.read() or 0) or None
    return None


def _end(folder: Path, pid: int) -> None:
    """By SIGTERM, and by SIGKILL where that is not enough: the functions end with it either way."""
    for number, seconds in ((signal.SIGTERM, PATIENCE), (signal.SIGKILL, PATIENCE)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if _supervisor(folder) is None:
                return
            time.sleep(0.05)
    raise KdlibError(f"process {pid}, which keeps the functions of {folder}, does not end")


def expect_image(image: str) -> None:
    """Raises KdlibError where Docker, or the image, is not there."""
    try:
        found = subprocess.run(["docker", "image", "inspect", "--format", "{{.Id}}", image], capture_output=True,
                               text=True)
    except FileNotFoundError as error:
        raise KdlibError("--docker needs Docker's command `docker`; allowed: --process, without it") from error
    if found.returncode:
        said = (found.stderr.strip().splitlines() or ["docker said nothing"])[-1]
        raise KdlibError(f"image {image}: {said}; allowed: an image that `python -m faas image` has built")


def _remove_containers(folder: Path) -> None:
    """Those that are left, if any: they end with the supervisor, but Docker may have been busy."""
    from faas.local.launch import LABEL

    listed = subprocess.run(["docker", "ps", "--all", "--quiet", "--filter", f"label={LABEL}={folder}"],
                            capture_output=True, text=True)
    if left := listed.stdout.split():
        subprocess.run(["docker", "rm", "--force", *left], capture_output=True)


__all__ = ["down", "up"]
