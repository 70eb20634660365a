"""Imported by a worker before its first Step: what each of them needs, Lightning and all strategies among it."""

import contextlib
import os
from pathlib import Path

import kdlib.invoke.worker
import kdlib.learning.training  # noqa: F401
from kdlib.invoke.forkserver import READY
from kdlib.registry import NETWORKS, STRATEGIES

STRATEGIES.names()
NETWORKS.names()
if READY in os.environ:
    with contextlib.suppress(OSError):  # whoever wanted to know is gone already
        Path(os.environ.pop(READY)).touch()
