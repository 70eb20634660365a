"""What a function never needs is as good as not installed: a cold start that trains would take two seconds longer."""

import os
import sys
from importlib.metadata import PackageNotFoundError, entry_points

from lightning_utilities.core import imports

from kdlib.registry import NETWORKS, PLUGINS, STRATEGIES

ABSENT = ("matplotlib", "scipy")  # torchmetrics, which Lightning loads, loads them wherever it finds them


def hide() -> None:
    """From now on this process cannot import ABSENT, and Lightning's libraries take them for not installed.

    Not where strategies or networks come from outside: those may need them.
    """
    if os.environ.get(PLUGINS) or any(entry_points(group=each.group) for each in (STRATEGIES, NETWORKS)):
        return
    # None is Python's own way to bar a module, which typeshed does not know.
    sys.modules.update(dict.fromkeys(ABSENT))  # type: ignore[arg-type]
    version = imports._version

    def without(distribution_name: str) -> str:
        if distribution_name in ABSENT:
            raise PackageNotFoundError(distribution_name)
        return version(distribution_name)

    imports._version = without
