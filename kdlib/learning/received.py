"""What another party wrote, read as what it has to be: names, shapes, dtypes, finite values, a size in bytes.

Whoever averages, learns from or loads an object of another owner reads it here; what is wrong raises Damaged, which
names the object and its owner, so that a round can go on without that client.
"""

import functools
from collections.abc import Mapping

import torch
from torch import Tensor

from kdlib.errors import Damaged, Missing
from kdlib.learning.models import start
from kdlib.settings.experiment import Experiment
from kdlib.store import names
from kdlib.store.store import Store

HEADER, OF_A_TENSOR = 4096, 256  # bytes at most that safetensors adds to an object, and to each tensor beside its name


def read_tensors(store: Store, name: str, like: Mapping[str, Tensor], finite: bool = True) -> dict[str, Tensor]:
    """The object's tensors: of the names, shapes and dtypes of `like`, whose values do not matter, and all finite.

    finite: False where the reader wrote it, too: its own training may have diverged, and what is missing is Missing.
    Raises Damaged where they are not, or where the object of a client is not there, though its Step was done.
    """
    most = sum(tensor.nbytes + len(key) + OF_A_TENSOR for key, tensor in like.items()) + HEADER
    try:
        tensors = store.get(name, most)
    except Missing:
        if finite and name.startswith("client-"):
            raise _damaged(store, name, "it is not there") from None
        raise
    if wrong := _unlike(tensors, like) or (finite and _not_finite(tensors)) or _out_of_range(tensors):
        raise _damaged(store, name, wrong)
    return tensors


def read_weights(experiment: Experiment, store: Store, subject: str, name: str,
                 finite: bool = True) -> dict[str, Tensor]:
    """Weights of the subject's architecture, batch-norm statistics among them. Raises Damaged, see `read_tensors`."""
    return read_tensors(store, name, _weights(experiment, experiment.architecture_of(subject)), finite)


def read_logits(experiment: Experiment, store: Store, owner: str, round_: int, kind: str = "logits",
                key: str = "logits", items: int | None = None) -> Tensor:
    """What `owner` predicts for the round's alignment sample: float32 (items, classes). Raises Damaged.

    kind: last word of the object's name; key: of the tensor in it; items: of the sample, which an aggregator need not
    give and a client, who holds the sample, must.
    """
    count = aligned(experiment, store) if items is None else items
    like = {key: torch.empty(count, experiment.classes, device="meta")}
    return read_tensors(store, names.named(owner, round_, kind), like)[key]


def read_samples(store: Store, client: str, round_: int, sizes: Mapping[str, int] | None = None) -> int:
    """How many items the client says it trained on: as many as the partition gave it. Raises Damaged.

    sizes: what `partitioned` said, for one who reads many clients'.
    """
    name = names.named(client, round_, "samples")
    said = int(read_tensors(store, name, {"samples": torch.empty((), dtype=torch.int64, device="meta")})["samples"])
    right = (partitioned(store) if sizes is None else sizes).get(client)
    if said != right:
        raise _damaged(store, name, f"it says {said} items, and the partition {right}")
    return said


def partitioned(store: Store) -> dict[str, int]:
    """Items of each client, by the partition."""
    return _sizes(store)[0]


def aligned(experiment: Experiment, store: Store) -> int:
    """Items of a round's alignment sample, as an aggregator knows it without the public data."""
    items: int = min(_sizes(store)[1], experiment.setting("alignment_items"))
    return items


def expect_finite(tensor: Tensor, store: Store, name: str) -> Tensor:
    """The tensor, which came of the object `name`. Raises Damaged where it is not all finite."""
    if not _finite(tensor):
        raise _damaged(store, name, "what follows from it is not finite")
    return tensor


@functools.lru_cache(maxsize=256)
def _weights(experiment: Experiment, architecture: str) -> dict[str, Tensor]:
    model = start(experiment, architecture)
    return {key: torch.empty_like(tensor, device="meta") for key, tensor in model.state_dict().items()}


def _sizes(store: Store) -> tuple[dict[str, int], int]:
    found = store.get_json(names.SIZES)
    match found:
        case {"clients": dict(clients), "public": int(public)}:
            return clients, public
    raise _damaged(store, names.SIZES, "it says no sizes")


def _damaged(store: Store, name: str, why: str) -> Damaged:
    there = names.read(name)
    owner = there.owner if there else name.partition("/")[0]
    return Damaged(f"{name} in {store.url} is damaged, which {owner} should have written: {why}", name)


def _unlike(tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> str | None:
    if others := sorted(tensors.keys() ^ like.keys()):
        return f"it has {'no ' * (others[0] in like)}{others[0][:80]!r}"
    for key, wanted in like.items():
        found = tensors[key]
        if (found.dtype, found.shape) != (wanted.dtype, wanted.shape):
            return f"{key} is {_said(found)}; allowed: {_said(wanted)}"
    return None


def _not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    return next((f"{key} is not all finite" for key, tensor in tensors.items() if not _finite(tensor)), None)


def _finite(tensor: Tensor) -> bool:
    """A sum tells it in the time of reading; only one that overflows has to be looked at value by value."""
    return not tensor.is_floating_point() or bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def _out_of_range(tensors: Mapping[str, Tensor]) -> str | None:
    """Batch norm takes the root of a variance: below 0 it would answer with NaN."""
    return next((f"{key} is below 0" for key, tensor in tensors.items()
                 if key.endswith(("running_var", "num_batches_tracked")) and bool((tensor < 0).any())), None)


def _said(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
