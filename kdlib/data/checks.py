"""What comes of a data set, checked by its content before anything is trained."""

import numpy as np

from kdlib.data.splits import Split
from kdlib.errors import KdlibError
from kdlib.settings.task import Source, Task

LARGEST_LABEL = 2**31 - 1
FAINT, GLARING, UNLIKE = 0.1, 10.0, 10.0  # largest pixels, as models see them, that hardly are what was meant; a factor


def checked(where: object, x: np.ndarray, y: np.ndarray | None, owner: np.ndarray | None = None) -> Split:
    """x: uint8, float (as float32) or integers (N, ...); y: integers (N,), None: unlabelled, -1; owner: (N,) or None.

    Raises KdlibError, which names `where`, for anything else.
    """
    if x.dtype.kind == "f":
        with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and refused
            x = x.astype(np.float32)
        if not np.isfinite(x).all():
            raise KdlibError(f"{where}: {np.count_nonzero(~np.isfinite(x))} numbers are NaN or infinite; allowed: none")
    elif x.dtype.kind not in "iu":
        raise KdlibError(f"{where}: items are {x.dtype} {x.shape}; they must be uint8, float32 or integers (N, ...)")
    if x.ndim < 2:
        raise KdlibError(f"{where}: items are {x.dtype} {x.shape}; they must be (N, ...)")
    y = np.full(len(x), -1) if y is None else y
    if y.dtype.kind not in "iu" or y.shape != x.shape[:1]:
        raise KdlibError(f"{where}: labels are {y.dtype} {y.shape} for {len(x)} items; they must be {len(x)} integers")
    wrong = y[(y < -1) | (y > LARGEST_LABEL)]
    if len(wrong):
        raise KdlibError(f"{where}: {len(wrong)} of {len(y)} labels are like {wrong[0]}; allowed: 0 to "
                         f"{LARGEST_LABEL}, and -1 of items without a label")
    if owner is not None and (owner.dtype.kind not in "iuSU" or owner.shape != x.shape[:1]):
        raise KdlibError(f"{where}: owners are {owner.dtype} {owner.shape} for {len(x)} items; they must be {len(x)} "
                         "integers or names")
    return Split(x, y.astype(np.int64), None, owner)


def expect_items(task: Task, name: str, split: Split) -> None:
    """Raises KdlibError where items are not of the task's shape and kind."""
    if not len(split.x):
        return
    there = split.x.shape[1:]
    if there != tuple(task.shape):
        first = len(there) == 3 and (*there[1:], there[0]) == tuple(task.shape)
        hint = "; allowed: channels last, as x.transpose(0, 2, 3, 1) makes them" if first else ""
        raise KdlibError(f"task {task.name} says {task.items}s of shape {list(task.shape)}, "
                         f"but {name} has {list(there)}{hint}")
    tokens = split.x.dtype.kind == "i" or (split.x.dtype.kind == "u" and split.x.dtype != np.uint8)
    if tokens != (task.items == "text"):
        raise KdlibError(f"{name} has {split.x.dtype} items; allowed: uint8 or float32 for {task.items}s"
                         if tokens else f"{name} has {split.x.dtype} items; allowed: signed integers, which are tokens")
    if tokens and not 0 <= split.x.min() <= split.x.max() < (task.vocabulary or 0):
        raise KdlibError(f"{name} has tokens from {split.x.min()} to {split.x.max()}; allowed: 0 to "
                         f"{(task.vocabulary or 0) - 1}, the task's vocabulary")


def of_classes(split: Split, source: Source, first: int, what: str) -> Split:
    """The items of the source's classes, in their order, labelled first, first + 1, ...; all of unlabelled ones: -1.

    what: `training` or `test`, for the message. Raises KdlibError where items have no label, or a class has no items.
    """
    if not source.classes:
        return split._replace(y=np.full(len(split.y), -1))
    if count := np.count_nonzero(split.y < 0):
        raise KdlibError(f"{source.name}: {count} of {len(split.y)} {what} items have the label -1, which is none; "
                         f"allowed: labels from 0, or as public data without labels no `classes` in the task")
    there = np.unique(split.y)
    lacking = sorted(set(source.classes) - set(there.tolist()))
    if lacking:
        known = f"{there.tolist()}" if len(there) <= 100 else f"{len(there)} others, {there[0]} to {there[-1]}"
        raise KdlibError(f"{source.name} has no items of class {', '.join(map(str, lacking))}; its classes are {known}")
    number = np.full(len(there), -1)
    number[np.searchsorted(there, source.classes)] = np.arange(first, first + len(source.classes))
    labels = number[np.searchsorted(there, split.y)]
    return split._replace(y=labels).take(labels >= 0)


def of_pixels(task: Task, private: Split, test: Split, public: Split) -> list[str]:
    """What is strange about the images' brightness, a line each. Raises KdlibError where it cannot be meant."""
    if task.items == "text":
        return []
    splits = {f"private {task.private.name}": private, f"test {task.private.name}": test,
              f"public {task.public.name}": public}
    reach = {name: _reach(task, name, split.x) for name, split in splits.items() if split.x.size}
    if task.items != "image":
        return []
    own, tested, *shared = reach
    if _unlike(reach[own], reach[tested]):
        raise KdlibError(f"the images of {own} reach {reach[own]:.3g} as models see them, those of {tested} "
                         f"{reach[tested]:.3g}; allowed: one scale for both")
    notes = [_strange(task, name, splits[name].x, most) for name, most in reach.items() if name != tested]
    if shared and _unlike(reach[own], reach[shared[0]]):
        notes.append(f"the images of {own} reach {reach[own]:.3g} as models see them, those of {shared[0]} "
                     f"{reach[shared[0]]:.3g}: they may be of different scales")
    return [note for note in notes if note]


def _reach(task: Task, name: str, x: np.ndarray) -> float:
    """The largest number that models see. Raises KdlibError where bytes go beyond the task's white."""
    largest = float(max(abs(float(x.max())), abs(float(x.min()))))
    if x.dtype != np.uint8:
        return largest
    if largest > task.pixels:
        raise KdlibError(f"{name} has bytes up to {largest:.0f}, and task {task.name} says pixels = {task.pixels}; "
                         f"allowed: pixels = {largest:.0f} to 255")
    return largest / task.pixels


def _unlike(one: float, other: float) -> bool:
    return max(one, other) > UNLIKE * min(one, other)


def _strange(task: Task, name: str, x: np.ndarray, reach: float) -> str:
    if x.dtype == np.uint8 and reach < FAINT:
        return (f"{name} has pixels of {x.min()} to {x.max()}, taken as 0 (black) to {task.pixels} (white): all is "
                f"nearly black; if {max(1, x.max())} is white, say `pixels = {max(1, x.max())}` in the task")
    if x.dtype != np.uint8 and reach > GLARING:
        return (f"{name} has float pixels of {x.min():g} to {x.max():g}, taken as they are, where about 0 to 1 is "
                "usual; divide them, or store 0 to 255 as uint8")
    return ""
