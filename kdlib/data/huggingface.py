"""Data sets as Hugging Face's `datasets` saves them: a folder, written by `DatasetDict.save_to_disk`.

One layout: the splits `train` and, where there is one, `test`; the columns `image` or `x` (pictures, or arrays of one
shape), `label` or `y` (integers; may be missing of public data), and `owner` (integers or names; may be missing).
"""

from pathlib import Path
from typing import Any

import numpy as np

from kdlib.data.checks import checked
from kdlib.data.splits import DataSet, Split
from kdlib.errors import KdlibError

LARGEST = 4 * 2**30  # bytes on disk
COLUMNS = {"x": ("image", "x"), "y": ("label", "y"), "owner": ("owner",)}


def load(path: Path) -> DataSet:
    """The data set in that folder. Raises KdlibError where it is none, or of another layout."""
    try:
        import datasets
    except ImportError as error:
        raise KdlibError(f"{path} is a folder, which needs `datasets`; allowed: pip install 'kdlib[datasets]', or "
                         f"{path.name}.npz") from error
    if (size := sum(file.stat().st_size for file in path.rglob("*") if file.is_file())) > LARGEST:
        raise KdlibError(f"{path} has {size >> 30} GiB; allowed: at most {LARGEST >> 30}")
    try:
        found = datasets.load_from_disk(str(path))
    except Exception as error:  # arrow's, JSON's and its own
        raise KdlibError(f"{path} is no saved data set: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(found, datasets.DatasetDict) or "train" not in found:
        raise KdlibError(f"{path} has no split `train`; allowed: what DatasetDict.save_to_disk wrote, with `train` and "
                         "`test`")

    def split(name: str) -> Split:
        columns = {kind: _column(found[name], names) for kind, names in COLUMNS.items()}
        if columns["x"] is None:
            raise KdlibError(f"{path}: {name} has the columns {', '.join(found[name].column_names)}; it must have "
                             "`image` or `x`")
        return checked(f"{path}: {name}", columns["x"], columns["y"], columns["owner"])

    train = split("train")
    return DataSet(train, split("test") if "test" in found else train.take(np.arange(0)))


def _column(data: Any, names: tuple[str, ...]) -> np.ndarray | None:
    for name in names:
        if name in data.column_names:
            try:
                return np.stack([np.asarray(value) for value in data[name]])
            except ValueError as error:
                raise KdlibError(f"the column {name} has items of several shapes; allowed: one shape") from error
    return None
