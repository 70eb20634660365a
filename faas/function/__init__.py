"""What Knative's `func` looks for: a package `function` with `new`."""

from .func import new

__all__ = ["new"]
