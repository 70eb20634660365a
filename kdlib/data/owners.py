"""Items whose owners the data name, such as FEMNIST's writers: an owner is a client, with test items of its own."""

from typing import Any

import numpy as np

from kdlib.data.splits import RunData, Split, held_out, joined, some
from kdlib.errors import KdlibError
from kdlib.settings.experiment import Experiment
from kdlib.settings.task import Task


def share_out(experiment: Experiment, private: Split, test: Split) -> RunData:
    """Owners drawn by seed are the clients, each with its training and test items; the others' are validated on.

    private, test: with `owner`, each item's, a number or a name. Raises KdlibError where there are too few owners.
    """
    task, rng = experiment.task, experiment.rng
    assert isinstance(task, Task) and private.owner is not None and test.owner is not None
    trains, tests = _counted(private.owner), _counted(test.owner)
    able = [owner for owner in sorted(trains)
            if trains[owner] >= task.least_train and tests.get(owner, 0) >= task.least_test]
    if len(able) <= experiment.clients:
        raise KdlibError(f"{len(able)} of {len(trains)} owners have {task.least_train} training and {task.least_test} "
                         "test items, and one must be left to validate on; allowed: clients up to "
                         f"{max(0, len(able) - 1)}")
    order = [able[index] for index in rng(0, "server", "roles").permutation(len(able))]
    chosen, others = order[: experiment.clients], order[experiment.clients :]
    parts: list[Split] = []
    of_test: list[Split] = []
    for number, (client, owner) in enumerate(zip(experiment.client_names, chosen, strict=True)):
        for splits, split, most, purpose in ((parts, private, experiment.samples, "items"),
                                             (of_test, test, experiment.test_items, "test")):
            rows = some(np.flatnonzero(split.owner == owner), most, rng(0, client, purpose))
            splits.append(split.take(rows)._replace(owner=np.full(len(rows), number)))
    held = np.flatnonzero(np.isin(private.owner, others))
    rows = some(held, held_out(experiment), rng(0, "server", "validation"))
    return RunData(private=joined(parts), validation=private.take(rows)._replace(owner=None), test=joined(of_test),
                   public=private.take(np.arange(0)), hashes={}, roles=tuple(str(owner) for owner in chosen),
                   able=len(able))


def _counted(owners: np.ndarray) -> dict[Any, int]:
    """Owner -> how many items."""
    return dict(zip(*np.unique(owners, return_counts=True), strict=True))
