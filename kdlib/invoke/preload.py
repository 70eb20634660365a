"""Imported by a worker before its first Step: what each of them needs, Lightning and all strategies among it."""

import kdlib.invoke.worker
import kdlib.learning.training  # noqa: F401
from kdlib.registry import NETWORKS, STRATEGIES

STRATEGIES.names()
NETWORKS.names()
