"""FedMD and FedDF for clients of different architecture, reproduced; see README.md.

    import kdlib

    the_run = kdlib.run(kdlib.make_experiment("digits", "feddf", alpha=0.1))
    print(kdlib.compare([the_run]))

What `__all__` names is public; whatever else is in the package may change with any version.
"""

import importlib
from typing import Any

# Name -> where it is; imported when it is first asked for, as torch takes seconds.
PUBLIC = {
    # experiments, and what they learn from
    "make_experiment": "settings.experiment:make_experiment",
    "task": "data.arrays:task",
    "load_task": "settings.task:load_task",
    "load_data": "data.sets:load",
    "prepare": "data.sets:prepare",
    "partition": "data.partition:partition",
    "partition_table": "data.partition:table",
    "label_entropy": "data.partition:label_entropy",
    "CHARACTERS": "settings.vocabulary:CHARACTERS",
    "encode": "settings.vocabulary:encode",
    "ZOO": "settings.architectures:ZOO",
    "TEXT_ZOO": "settings.architectures:TEXT_ZOO",
    # runs
    "run": "runs.runner:run",
    "load": "runs.run:load",
    "live": "reports.summary:live",
    "make_invoker": "runs.invokers:make_invoker",
    "token": "invoke.tokens:token",
    "Call": "invoke.tokens:Call",
    "simulate": "cohort.history:simulate",
    # what came of them
    "summary": "reports.summary:summary",
    "compare": "reports.comparison:compare",
    "export": "runs.exports:export",
    "accuracy_by_architecture": "runs.run:accuracy_by_architecture",
    "estimate": "reports.estimate:estimate",
    "figures": "reports.figures",
    "times": "reports.times",
    "cost": "reports.cost",
    "Grid": "paper.grid:Grid",
    "published": "paper.published:curves",
    "claims": "paper.claims",
    "bench": "paper.bench",
    # strategies and networks of one's own
    "register_strategy": "invoke.strategy:register_strategy",
    "register_network": "learning.models:register_network",
    "Network": "settings.architectures:Network",
    "Task": "settings.task:Task",
    "strategy": "invoke.strategy:find_strategy",
    "Experiment": "settings.experiment:Experiment",
    "Aligned": "settings.shared:Aligned",
    "Selecting": "settings.shared:Selecting",
    "Strategy": "invoke.strategy:Strategy",
    "Step": "invoke.steps:Step",
    "Stage": "invoke.steps:Stage",
    "Chosen": "invoke.strategy:Chosen",
    "Work": "invoke.strategy:Work",
    "of_client": "invoke.strategy:of_client",
    "of_aggregator": "invoke.strategy:of_aggregator",
    "personal_model": "invoke.strategy:personal_model",
    "server_model": "invoke.strategy:server_model",
    "Store": "store.store:Store",
    "chosen_of": "cohort.selection:chosen_of",
    "in_time": "cohort.attendance:in_time",
    "last_counted": "cohort.attendance:last_counted",
    "named": "store.names:named",
    "public": "store.names:public",
    "private": "store.names:private",
    "read_logits": "learning.received:read_logits",
    "read_weights": "learning.received:read_weights",
    "start": "learning.models:start",
    "load_model": "learning.client:load",
    "save_model": "learning.client:save",
    "Batches": "learning.engine:Batches",
    "fit": "learning.client:fit",
    "train_privately": "learning.client:train_privately",
    "predict": "learning.engine:predict",
    "accuracy": "learning.engine:accuracy",
    "test_accuracy": "learning.client:test_accuracy",
    "alignment_rows": "learning.client:alignment_rows",
    "mean": "learning.client:mean",
}
__all__ = ["__version__", *PUBLIC]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("kdlib")
    if name not in PUBLIC:
        raise AttributeError(f"module 'kdlib' has no attribute '{name}'; allowed: {', '.join(__all__)}")
    module, _, attribute = PUBLIC[name].partition(":")
    found = importlib.import_module(f"kdlib.{module}")
    return getattr(found, attribute) if attribute else found


def __dir__() -> list[str]:
    return [*globals(), *__all__]
