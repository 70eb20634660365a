"""The data sets behind one call, and what one run takes of them."""

import os
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from platformdirs import user_cache_dir

from kdlib.data import texts
from kdlib.data.splits import RunData, Split, sha256, some
from kdlib.errors import KdlibError
from kdlib.settings.experiment import Experiment
from kdlib.settings.task import Source, TextTask

ARRAYS = ("x_train", "y_train", "x_test", "y_test")
LARGEST_FILE = 4 * 2**30  # bytes, unpacked: far above any data set here, far below what hurts a laptop


class DataSet(NamedTuple):
    """One data set with its own labels, from 0."""

    train: Split
    test: Split


def folder() -> Path:
    """Where data sets are looked for: KDLIB_DATA, or the user's cache."""
    return Path(os.environ.get("KDLIB_DATA") or user_cache_dir("kdlib"))


def load(name: str) -> DataSet:
    """The data set `name`: the bundled `digits`, or NAME.npz in `folder()`.

    Raises KdlibError where the file is missing, damaged, or not of the format.
    """
    if name == "digits":
        return _digits()
    path = folder() / f"{name}.npz"
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > LARGEST_FILE:
                raise KdlibError(f"{path} unpacks to more than {LARGEST_FILE >> 30} GiB; allowed: less")
        with np.load(path, allow_pickle=False) as arrays:
            missing = [name for name in ARRAYS if name not in arrays.files]
            if missing:
                raise KdlibError(f"{path} has no {', '.join(missing)}; it must hold {', '.join(ARRAYS)}")
            x_train, y_train, x_test, y_test = (arrays[name] for name in ARRAYS)
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, zipfile.zlib.error) as error:
        raise KdlibError(f"{path} is damaged or no .npz file: {' '.join(str(error).split())}") from error
    return DataSet(_checked(path, x_train, y_train), _checked(path, x_test, y_test))


def _checked(path, x, y) -> Split:
    if x.dtype != np.uint8 or x.ndim not in (3, 4):
        raise KdlibError(f"{path}: images are {x.dtype} {x.shape}; they must be uint8 (N, height, width[, channels])")
    if y.dtype.kind not in "iu" or y.shape != x.shape[:1]:
        raise KdlibError(f"{path}: labels are {y.dtype} {y.shape} for {len(x)} images; they must be {len(x)} integers")
    return Split(x, y.astype(np.int64))


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
    """Load the task's data and draw what this run uses, by seed (PAPER: Non-IID partitions, first lines).

    The same seed gives every strategy the same private items and the same validation tenth.
    Raises KdlibError where the data are missing, of another shape, or lack a class of the task.
    """
    task = experiment.task
    kinds = (".json.gz", ".txt") if isinstance(task, TextTask) else (".npz", ".npz")
    names = [source.name + kind for source, kind in zip((task.private, task.public), kinds, strict=True)]
    if missing := sorted({name for name in names if name != "digits.npz" and not (folder() / name).is_file()}):
        raise KdlibError(f"{folder()} lacks {', '.join(missing)}; get what is missing with `kdlib data fetch "
                         f"{' '.join(name.partition('.')[0] for name in missing)}`, or set KDLIB_DATA to the folder "
                         "that has it")
    if isinstance(task, TextTask):
        drawn = texts.prepare(experiment, *(folder() / name for name in names))
    else:
        drawn = _images(experiment)
    if len(drawn.public.y) < 10:
        raise KdlibError(f"task {task.name} has {len(drawn.public.y)} public items; allowed: at least 10")
    return drawn


def _images(experiment: Experiment) -> RunData:
    task = experiment.task
    sets = {name: load(name) for name in sorted({task.private.name, task.public.name})}
    for name, data in sets.items():
        if data.train.x.shape[1:] != tuple(task.shape):
            raise KdlibError(f"task {task.name} says images of shape {list(task.shape)}, "
                             f"but {name} has {list(data.train.x.shape[1:])}")
    private = _select(sets[task.private.name].train, task.private, first=0)
    test = _select(sets[task.private.name].test, task.private, first=0)
    public = _select(sets[task.public.name].train, task.public, first=len(task.private.classes))
    hashes = {name: sha256(array) for part, split in (("private", private), ("test", test), ("public", public))
              for name, array in ((f"{part}.x", split.x), (f"{part}.y", split.y))}

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
        public=_drawn(public, experiment.setting("public_items"), experiment.rng(0, "server", "public")),
        hashes=hashes,
    )


def _select(split: Split, source: Source, first: int) -> Split:
    """The items of the source's classes, in their order, labelled first, first + 1, ..."""
    lacking = sorted(set(source.classes) - set(np.unique(split.y).tolist()))
    if lacking:
        raise KdlibError(f"{source.name} has no items of class {', '.join(map(str, lacking))}; "
                         f"its classes are {np.unique(split.y).tolist()}")
    number = np.full(split.y.max() + 1, -1)
    number[list(source.classes)] = np.arange(first, first + len(source.classes))
    labels = number[split.y]
    return Split(split.x[labels >= 0], labels[labels >= 0])


def _drawn(split: Split, most: int | None, rng: np.random.Generator) -> Split:
    return split.take(some(np.arange(len(split.y)), most, rng))


__all__ = ["ARRAYS", "DataSet", "RunData", "Split", "folder", "load", "prepare", "sha256"]
