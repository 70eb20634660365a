"""What an architecture's name means, and which ones the paper's clients have.

`cnn2-128-256` is the network `cnn2` with the sizes 128 and 256. Networks are found by name, see kdlib.registry; kdlib's
own are in kdlib.learning.networks.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from kdlib.registry import NETWORKS, REFERENCE

SIZED = re.compile(r"([a-z][a-z0-9_]*)((?:-[1-9][0-9]{0,5})+)")
LONGEST = 120  # characters of a name

# The original FedMD's zoo for two and three layers; the 4-layer models are ours (PAPER: Models).
ZOO = (
    "cnn2-128-256",
    "cnn2-128-512",
    "cnn3-64-128-256",
    "cnn3-128-192-256",
    "cnn4-64-64-64-256",
    "cnn4-128-192-256-256",
)
TEXT_ZOO = ("lstm1-128", "lstm1-256", "lstm2-128", "lstm2-256")
ZOOS = {"image": ZOO, "text": TEXT_ZOO}


class Network(NamedTuple):
    """How a network is made.

    build: f(task, classes, width, generator, *sizes) -> nn.Module, which maps a batch of items to logits float32
    (N, classes). task: a kdlib.settings.task.Task or TextTask; width: factor on every number of filters or units;
    generator: torch.Generator that all weights are to be drawn from (PyTorch's global one is seeded alike).
    items: the kind of items that it takes, `image` or `text`; None: any that it can be tried on.
    sizes: how many numbers its name ends in.
    """

    build: Callable[..., Any]
    items: str | None = None
    sizes: int = 0


def network(name: str) -> tuple[Network, tuple[int, ...]]:
    """The network that the architecture `name` is of, and its sizes. Raises KdlibError where there is none."""
    of, sizes = sized(name)
    found = NETWORKS.find(of).value
    return found if isinstance(found, Network) else Network(found), sizes


def sized(name: str) -> tuple[str, tuple[int, ...]]:
    """The network's name and the sizes that the architecture's name ends in: `cnn2-128-256` -> cnn2, (128, 256)."""
    parts, known = SIZED.fullmatch(name), NETWORKS.names()
    if parts and name not in known and parts[1] in known:
        return parts[1], tuple(int(size) for size in parts[2][1:].split("-"))
    return name, ()


def expect_architecture(name: str) -> str:
    """The name itself. Raises ValueError, or KdlibError where no network here is called so."""
    if not REFERENCE.fullmatch(name) and (word(name) != name or sized(name)[0] not in NETWORKS.names()):
        raise ValueError(f"'{name[:40]}' is no architecture; allowed: {forms()}")
    found, sizes = network(name)
    if len(sizes) != found.sizes:
        raise ValueError(f"'{name[:40]}' is no architecture; allowed: {forms()}")
    if name.startswith("client-") or name in ("server", "public", "aggregator", "private"):
        raise ValueError(f"architecture {name} has the name of something else; allowed: another name")
    return name


def forms() -> str:
    """What names may look like, in one line."""
    own = [(name, NETWORKS.find(name).value) for name in NETWORKS.names()]
    said = ", ".join(name + "-N" * getattr(found, "sizes", 0) for name, found in own)
    return f"{said}, N being filters or units; or your own, package.module:NAME, or a plugin's, `--plugin FILE.py`"


def word(name: str) -> str:
    """The architecture's name as objects in a store have it: lower-case letters, digits, - and _."""
    return re.sub(r"[^a-z0-9_-]", "-", name.lower())[:LONGEST]
