"""The data sets behind one call, and what one run takes of them.

A data set is called by its name and is, in this order: arrays that `kdlib.task` was given in this process, the bundled
`digits`, NAME.npz, or the saved Hugging Face folder NAME, both in `folder()`. Of texts by roles see kdlib.data.texts.
"""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from platformdirs import user_cache_dir

from kdlib.data import huggingface, npz, owners, texts
from kdlib.data.checks import checked, expect_items, of_classes, of_pixels
from kdlib.data.splits import DataSet, RunData, Split, sha256, some
from kdlib.errors import KdlibError
from kdlib.settings.experiment import Experiment
from kdlib.settings.task import Task, TextTask

ARRAYS = ("x_train", "y_train", "x_test", "y_test")
OWNERS = ("owner_train", "owner_test")
LEAST_PUBLIC = 10  # items

IN_MEMORY: dict[str, DataSet] = {}  # see kdlib.data.arrays


class Needs(NamedTuple):
    """What a task wants of a data set: labels, a test set, and the owners of its items."""

    labels: bool = True
    test: bool = True
    owners: bool = False

    @property
    def arrays(self) -> list[str]:
        """Of NAME.npz."""
        there = [name for name in ARRAYS if (self.labels or name[0] == "x") and (self.test or "train" in name)]
        return there + list(OWNERS if self.owners else ())


def folder() -> Path:
    """Where data sets are looked for: KDLIB_DATA, or the user's cache."""
    return Path(os.environ.get("KDLIB_DATA") or user_cache_dir("kdlib"))


EVERYTHING = Needs()


def load(name: str, needs: Needs = EVERYTHING) -> DataSet:
    """The data set `name`, with what is needed of it.

    Raises KdlibError where it is missing, damaged, or not of the format.
    """
    if name in IN_MEMORY:
        return _with(name, IN_MEMORY[name], needs)
    if name == "digits":
        return _with(name, _digits(), needs)
    path = folder() / name
    if path.is_dir():
        return _with(str(path), huggingface.load(path), needs)
    file = path.with_name(f"{name}.npz")
    return _with(str(file), _from_npz(file, needs), needs)


def is_here(name: str) -> bool:
    """Whether there is a data set of that name."""
    return name in IN_MEMORY or name == "digits" or (folder() / name).is_dir() or (folder() / f"{name}.npz").is_file()


def _with(where: str, found: DataSet, needs: Needs) -> DataSet:
    lacks = [word for word, wanted, there in (
        ("labels", needs.labels, (found.train.y >= 0).any()),
        ("a test set", needs.test, len(found.test.y)),
        ("owners", needs.owners, found.train.owner is not None and found.test.owner is not None))
        if wanted and not there]
    if lacks:
        raise KdlibError(f"the data set {where} has no {' and no '.join(lacks)}, which this task needs")
    if len(found.test.y) and found.test.x.shape[1:] != found.train.x.shape[1:]:
        shapes = [list(split.x.shape[1:]) for split in (found.test, found.train)]
        raise KdlibError(f"the data set {where} has test items of shape {shapes[0]}, training items of {shapes[1]}; "
                         "they must be alike")
    return found


def _from_npz(path: Path, needs: Needs) -> DataSet:
    found = npz.read(path, needs.arrays)
    train, test = (checked(path, found[f"x_{split}"], found.get(f"y_{split}"), found.get(f"owner_{split}"))
                   if f"x_{split}" in found else None for split in ("train", "test"))
    assert train is not None
    return DataSet(train, test or train.take(np.arange(0)))


def _digits() -> DataSet:
    """scikit-learn's 1,797 digits, 8 x 8 of 0-16, as 28 x 28 of 0-255; a fixed stratified 80/20 split."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    small = np.rint(x.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    # Each pixel three times each way, and a border of two, is 28 without any interpolation to agree on.
    x = np.pad(small.repeat(3, axis=1).repeat(3, axis=2), ((0, 0), (2, 2), (2, 2)))
    train, test = train_test_split(np.arange(len(y)), test_size=0.2, random_state=0, stratify=y)
    return DataSet(*(Split(x[rows], y[rows].astype(np.int64)) for rows in (np.sort(train), np.sort(test))))


def prepare(experiment: Experiment) -> RunData:
    """Load the task's data and draw what this run uses, by seed (PAPER: Non-IID partitions).

    The same seed gives every strategy the same private items and the same validation data.
    Raises KdlibError where the data are missing, of another shape, or lack a class of the task.
    """
    task = experiment.task
    if isinstance(task, TextTask):
        files = [folder() / f"{task.private.name}.json.gz", folder() / f"{task.public.name}.txt"]
        _expect([path.name for path in files if not path.is_file()])
        drawn = texts.prepare(experiment, *files)
    else:
        _expect([f"{name}.npz" for name in (task.private.name, task.public.name) if not is_here(name)])
        drawn = _arrays(experiment, task)
    if len(drawn.public.y) < LEAST_PUBLIC:
        raise KdlibError(f"task {task.name} has {len(drawn.public.y)} public items; allowed: at least {LEAST_PUBLIC}")
    if "validation_items" in type(experiment).model_fields and not len(drawn.validation.y):
        raise KdlibError(f"task {task.name} has {len(drawn.private.y)} private items, of which none is left to "
                         f"validate on (a tenth is), as {experiment.strategy} does; allowed: 10 or more, or another "
                         "strategy")
    return drawn


def _expect(missing: list[str]) -> None:
    if missing := sorted(set(missing)):
        raise KdlibError(f"{folder()} lacks {', '.join(missing)}; get what is missing with `kdlib data fetch "
                         f"{' '.join(name.partition('.')[0] for name in missing)}`, set KDLIB_DATA to the folder that "
                         "has it, or give its arrays to kdlib.task first")


def _arrays(experiment: Experiment, task: Task) -> RunData:
    own = load(task.private.name, Needs(owners=task.by_owners))
    others = load(task.public.name, Needs(labels=task.labelled_public, test=False))
    for name, data in ((task.private.name, own), (task.public.name, others)):
        for split in data:
            expect_items(task, name, split)
    private, test = (of_classes(split, task.private, 0, what) for split, what in zip(own, ("training", "test"),
                                                                                     strict=True))
    public = of_classes(others.train, task.public, len(task.private.classes), "public")
    notes = of_pixels(task, private, test, public)
    hashes = {name: sha256(array) for part, split in (("private", private), ("test", test), ("public", public))
              for name, array in ((f"{part}.x", split.x), (f"{part}.y", split.y))}
    if task.by_owners:
        assert private.owner is not None and test.owner is not None  # Needs of `load`
        hashes |= {"private.owner": sha256(private.owner), "test.owner": sha256(test.owner)}
    drawn = (owners.share_out if task.by_owners else _share_out)(experiment, private, test)
    most = experiment.setting("public_items")
    return drawn._replace(public=_drawn(public, most, experiment.rng(0, "server", "public")), hashes=hashes,
                          notes=tuple(notes))


def _share_out(experiment: Experiment, private: Split, test: Split) -> RunData:
    """A tenth of the private data is held back to validate on; kdlib.data.partition shares out the rest."""
    order = experiment.rng(0, "server", "validation").permutation(len(private.y))
    tenth, rest = np.split(order, [len(order) // 10])
    most = experiment.clients * experiment.samples if experiment.samples else len(rest)
    if len(rest) < 2 * experiment.clients:
        raise KdlibError(f"{len(rest)} private items are too few for {experiment.clients} clients; "
                         f"allowed: clients up to {len(rest) // 2}, two items each")
    return RunData(
        private=private.take(np.sort(rest[:most])),
        validation=private.take(np.sort(tenth[: experiment.setting("validation_items")])),
        test=_drawn(test, experiment.test_items, experiment.rng(0, "server", "test")),
        public=private.take(np.arange(0)), hashes={})


def _drawn(split: Split, most: int | None, rng: np.random.Generator) -> Split:
    return split.take(some(np.arange(len(split.y)), most, rng))


__all__ = ["ARRAYS", "DataSet", "RunData", "Split", "folder", "load", "prepare", "sha256"]
