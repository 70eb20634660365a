"""Tasks made of arrays in memory."""

from typing import Any, Literal

import numpy as np

from kdlib.data.checks import checked
from kdlib.data.sets import IN_MEMORY
from kdlib.data.splits import DataSet
from kdlib.errors import KdlibError
from kdlib.settings.task import Task
from kdlib.toml import validated

Labelled = tuple[Any, Any]
Items = Literal["image", "text", "other"]


def task(name: str, private: Labelled, public: Any, test: Labelled, owners: Labelled | None = None,
         items: Items | None = None, vocabulary: int | None = None, about: str = "", pixels: int = 255) -> Task:
    """A Task of arrays, for `kdlib.make_experiment`; its data live in this process, under the task's name.

    private, test: (x, y) of the clients; public: (x, y), or x alone where it has no labels. x: (N, ...) uint8 (divided
    by `pixels` when a model sees them), float32 (taken as they are) or integers (tokens); y: integers (N,) from 0.
    owners: (of the private items, of the test items), numbers or names; then an owner is a client, otherwise a
    Dirichlet law shares the private items out. items: what they are; by default images where x is (N, height, width[,
    channels]), text where x are integers other than uint8, else other. vocabulary: of texts, by default the largest
    token and one more.
    Another process that goes on with such a run has to make the task again; its models, records and results are read
    without. Raises KdlibError, in one line, for arrays that do not fit.
    """
    labelled = isinstance(public, tuple)
    of_private, of_test = owners or (None, None)
    train = checked(f"private data of {name}", *_arrays(private), _array(of_private))
    tested = checked(f"test data of {name}", *_arrays(test), _array(of_test))
    shared = checked(f"public data of {name}", *(_arrays(public) if labelled else (np.asarray(public), None)))
    for what, split in (("private", train), ("test", tested), *([("public", shared)] if labelled else [])):
        if not len(split.y) or split.y.min() < 0:
            raise KdlibError(f"{what} data of {name}: {len(split.y)} labels, the least is "
                             f"{split.y.min() if len(split.y) else 'none'}; allowed: one or more, from 0")
    tokens = train.x.dtype.kind in "iu" and train.x.dtype != np.uint8
    kind = items or ("text" if tokens else "image" if train.x.ndim in (3, 4) else "other")
    if kind == "text" and vocabulary is None:
        vocabulary = 1 + max(int(split.x.max()) for split in (train, tested, shared))
    if strange := sorted(set(np.unique(tested.y).tolist()) - set(np.unique(train.y).tolist())):
        raise KdlibError(f"test data of {name}: {np.isin(tested.y, strange).sum()} of {len(tested.y)} labels are like "
                         f"{strange[0]}, which no private item has; allowed: the private data's labels")
    made = validated(Task, f"task {name}", {
        "name": name, "about": about, "items": kind, "shape": train.x.shape[1:], "vocabulary": vocabulary,
        "pixels": pixels,
        "shared": "owners" if owners else "dirichlet",
        "private": {"name": name, "classes": np.unique(train.y).tolist()},
        "public": {"name": f"{name}-public", "classes": np.unique(shared.y).tolist() if labelled else ()}})
    IN_MEMORY[name] = DataSet(train, tested)
    IN_MEMORY[made.public.name] = DataSet(shared, shared.take(np.arange(0)))
    return made


def _arrays(pair: Labelled) -> tuple[np.ndarray, np.ndarray]:
    x, y = pair
    return np.asarray(x), np.asarray(y)


def _array(value: Any) -> np.ndarray | None:
    return None if value is None else np.asarray(value)
