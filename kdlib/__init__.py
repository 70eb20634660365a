"""FedMD and FedDF for clients of different architecture, reproduced; see README.md.

    import kdlib

    the_run = kdlib.run(kdlib.make_experiment("digits", "feddf", alpha=0.1))
    print(kdlib.compare([the_run]))
"""

import importlib

ROOMS = {"make_experiment": "settings.experiment", "run": "runs.runner", "load": "runs.run",
         "accuracy_by_architecture": "runs.run", "compare": "reports.comparison", "export": "runs.exports",
         "summary": "reports.summary", "live": "reports.summary"}
__all__ = sorted(ROOMS)


def __getattr__(name: str) -> object:
    if name not in ROOMS:
        raise AttributeError(f"module 'kdlib' has no attribute '{name}'; allowed: {', '.join(__all__)}")
    return getattr(importlib.import_module(f"kdlib.{ROOMS[name]}"), name)  # only now: torch takes seconds


def __dir__() -> list[str]:
    return [*globals(), *__all__]
