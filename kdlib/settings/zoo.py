"""Which architectures there are: `cnnL-n1-..-nL`, L convolutions of n1 ... nL filters; `lstmL-n`, L layers of n units.

Another kind of CNN is one more entry of BLOCKS; kdlib.learning.models builds what this says.
"""

from typing import NamedTuple


class Pool(NamedTuple):
    """An average pool of 2 x 2."""

    stride: int
    padding: str


class Block(NamedTuple):
    """A convolution with batch norm, ReLU and dropout, then perhaps a pool."""

    kernel: int
    stride: int
    padding: str
    pool: Pool | None = None


BLOCKS: dict[str, tuple[Block, ...]] = {
    "cnn2": (
        Block(3, 1, "same", Pool(1, "same")),
        Block(3, 2, "valid"),
    ),
    "cnn3": (
        Block(3, 1, "same", Pool(1, "same")),
        Block(2, 2, "valid", Pool(2, "valid")),
        Block(3, 2, "valid"),
    ),
    "cnn4": (
        Block(3, 1, "same", Pool(1, "same")),
        Block(2, 2, "same", Pool(2, "same")),
        Block(2, 2, "same", Pool(2, "same")),
        Block(3, 2, "same"),
    ),
}
LSTMS = ("lstm1", "lstm2")

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
ZOOS = {"cnn": ZOO, "lstm": TEXT_ZOO}


def expect_architecture(name: str) -> str:
    """The name itself. Raises ValueError, which says what is allowed, where it is that of no architecture."""
    kind, *sizes = name.split("-")
    layers = {kind: len(blocks) for kind, blocks in BLOCKS.items()} | dict.fromkeys(LSTMS, 1)
    if len(sizes) != layers.get(kind) or not all(size.isascii() and size.isdigit() and int(size) for size in sizes):
        forms = ", ".join(f"{kind}{'-N' * number}" for kind, number in layers.items())
        raise ValueError(f"'{name[:40]}' is no architecture; allowed: {forms}, N being filters or units")
    return name
