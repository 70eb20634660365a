"""How a function is started on this machine: as a process or a container, with its limits and its part of the store."""

import math
import os
import socket
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import faas
from faas.cluster.access import folders
from faas.cluster.resources import aggregator_allotment, client_allotment
from faas.cluster.values import Values
from faas.local.supervisor import Command
from kdlib import registry
from kdlib.errors import KdlibError
from kdlib.invoke import tokens
from kdlib.invoke.tokens import AGGREGATOR
from kdlib.settings.experiment import Experiment

INSIDE = "/store"  # where a container's folders are mounted
PORT = 8080  # inside a container
NOBODY = 65532  # whom containers run as where root starts them
LABEL = "kdlib.functions"  # of containers: the folder that they belong to

# What a function's process gets of the caller's environment; not credentials, and nothing that changes its results.
PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "NO_PROXY", "KDLIB_DEADLINE")
DOCKERS_OWN = ("PATH", "HOME", "DOCKER_HOST", "DOCKER_CONFIG", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY",
               "DOCKER_CERT_PATH", "XDG_RUNTIME_DIR")

IDENTITY = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE")

ACL_VERSION, WHOEVER = 2, 2**32 - 1  # linux/posix_acl_xattr.h
OWNER, USER, GROUP, MASK, OTHERS = 0x01, 0x02, 0x04, 0x10, 0x20


class Function(NamedTuple):
    """One instance. cpu, memory: vCPU and MiB at most."""

    name: str
    subject: str
    port: int
    cpu: float
    memory: int

    @property
    def url(self) -> str:
        """Where it is called."""
        return f"http://127.0.0.1:{self.port}"


class Place(NamedTuple):
    """What functions share. folder: absolute; store: URL of one elsewhere, or None: the folder's own.

    clients: all of them; key: signs the tokens; credentials: function -> AWS_* variables, or None: the caller's own.
    confined: whether a process can be kept to its part of a folder store.
    """

    folder: Path
    store: str | None
    clients: tuple[str, ...]
    key: str
    credentials: Mapping[str, Mapping[str, str]] | None
    confined: bool

    @property
    def owners(self) -> set[str]:
        """The folders of a store, one an owner."""
        every = (AGGREGATOR, *self.clients)
        return {owner for subject in every for owner in folders(subject, self.clients)}

    def environment(self, subject: str, store: str) -> dict[str, str]:
        """What tells a function who it is, see faas.cluster.access; store: its folder of owners, where it has one."""
        aws = {name: value for name, value in os.environ.items() if name.startswith("AWS_")} if self.store else {}
        if self.credentials is not None:
            aws = {name: value for name, value in aws.items() if name not in IDENTITY} | dict(self.credentials[subject])
        return aws | {"KDLIB_SUBJECT": subject, tokens.PUBLIC_KEYS: tokens.public_of(self.key),
                      "KDLIB_STORE": f"{self.store or f'file://{store}'}/{{owner}}"}


def functions(clients: tuple[str, ...], experiment: Experiment | None, values: Values,
              first_port: int) -> list[Function]:
    """Every client's function, and one aggregator for each architecture, or a single one without an experiment.

    Limits come from the experiment, else they are what the values allow at most. first_port: of consecutive ones; 0:
    any. Raises KdlibError where a port is taken, or a limit cannot be met.
    """
    aggregators = len(experiment.architectures) if experiment else 1
    names = [*clients, AGGREGATOR, *(f"{AGGREGATOR}-{number}" for number in range(2, aggregators + 1))]
    found = []
    for name, port in zip(names, _ports(first_port, len(names)), strict=True):
        subject = name if name in clients else AGGREGATOR
        most = values.aggregator if subject == AGGREGATOR else values.client
        cpu, memory = most.cpu, math.floor(most.memory * 1024)
        if experiment:
            allotment = (aggregator_allotment(experiment, most) if subject == AGGREGATOR else
                         client_allotment(experiment, subject, most))
            cpu, memory = allotment.most_cpu, allotment.most_memory
        found.append(Function(name, subject, port, cpu, memory))
    return found


def process(function: Function, place: Place) -> Command:
    """A process with a limit on its own memory, which sees of a folder store what it may see, where the system can.

    It has the plugins of this process, which it imports when it sees no more than that.
    Its cores are not limited; a Step computes with as many threads as its experiment says.
    """
    environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    environment |= {"PYTHONPATH": python_path(), "HOST": "127.0.0.1", "PORT": str(function.port),
                    registry.PLUGINS: os.pathsep.join(registry.plugins()),
                    **place.environment(function.subject, f"{place.folder}/store")}
    argv = [sys.executable, "-m", "faas.function.server", "--supervised", "--memory", str(function.memory)]
    if place.confined and not place.store:
        sees = folders(function.subject, place.clients)
        argv += ["--confine", str(place.folder), ",".join(sees), ",".join(owner for owner in sees if sees[owner])]
    return Command(name=function.name, argv=argv, environment=environment, health=f"{function.url}/health/readiness")


def python_path() -> str:
    """PYTHONPATH of another process that finds faas, kdlib, and what the plugins of this process consist of."""
    own = [Path(word) for word in os.environ.get("PYTHONPATH", "").split(os.pathsep) if word]
    here = [Path.cwd()] if registry.plugins() else []
    places = [Path(faas.__file__).parents[1], *own, *here]
    return os.pathsep.join(dict.fromkeys(str(place.absolute()) for place in places))


def modules() -> dict[str, str]:
    """What tells an image's function which of its modules are plugins; nothing where there are none."""
    there = registry.plugins(files=False)
    return {registry.PLUGINS: os.pathsep.join(there)} if there else {}


def container(function: Function, place: Place, image: str) -> Command:
    """A container with limits on memory and cores, a read-only root, and of a folder store what it may see."""
    own = place.environment(function.subject, INSIDE) | modules()
    user = f"{os.getuid()}:{os.getgid()}" if os.getuid() else f"{NOBODY}:{NOBODY}"
    memory = f"{function.memory}m"
    argv = ["docker", "run", "--rm", "--interactive", "--label", f"{LABEL}={place.folder}",
            "--name", f"kdlib-{function.name}-{function.port}", "--publish", f"127.0.0.1:{function.port}:{PORT}",
            "--memory", memory, "--memory-swap", memory, "--cpus", str(min(function.cpu, os.cpu_count() or 1)),
            "--read-only", "--tmpfs", "/tmp", "--user", user, "--cap-drop", "ALL", "--pids-limit", "256",
            "--security-opt", "no-new-privileges"]
    for name in own:
        argv += ["--env", name]  # without its value, which the list of processes would show
    if not place.store:
        for owner, writable in folders(function.subject, place.clients).items():
            mount = f"type=bind,source={place.folder}/store/{owner},target={INSIDE}/{owner}"
            argv += ["--mount", mount if writable else f"{mount},readonly"]
    environment = {name: os.environ[name] for name in DOCKERS_OWN if name in os.environ} | own
    return Command(name=function.name, argv=[*argv, image, "--supervised"], environment=environment,
                   health=f"{function.url}/health/readiness")


def let_containers_write(place: Place) -> None:
    """Where root starts containers, which then run as NOBODY, let those write where their mounts do.

    Folders that root, the driving process, makes later below them are writable too: a default access control list says
    so. Raises KdlibError where the file system has none.
    """
    if os.getuid():
        return
    entries = ((OWNER, 7, WHOEVER), (USER, 7, NOBODY), (GROUP, 5, WHOEVER), (MASK, 7, WHOEVER), (OTHERS, 0, WHOEVER))
    acl = struct.pack("<I", ACL_VERSION) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    for owner in place.owners:
        for kind in ("access", "default"):
            try:
                os.setxattr(place.folder / "store" / owner, f"system.posix_acl_{kind}", acl)
            except OSError as error:
                raise KdlibError(f"{place.folder} lies on a file system without access control lists "
                                 f"({error.strerror}); allowed: another --folder, or to be another user than root") \
                    from error


def _ports(first: int, number: int) -> list[int]:
    """So many ports that are free now."""
    sockets = []
    try:
        for offset in range(number):
            port = first + offset if first else 0
            try:
                sockets.append(socket.create_server(("127.0.0.1", port)))
            except (OSError, OverflowError) as error:
                raise KdlibError(f"port {port} of this machine cannot be had ({error}); allowed: a --port from which "
                                 f"{number} are free, or 0 for any") from error
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
