"""Tasks, networks, records and runs made by hand, with sizes and times that a test can add up on paper."""

import torch

from kdlib.invoke.steps import Part, Record, Step
from kdlib.runs.run import Run
from kdlib.settings.architectures import network
from kdlib.settings.task import Source, Task


def task(shape, **other):
    """A Task of items of that shape: three private classes, unlabelled public data."""
    private, public = Source(name="own", classes=(0, 1, 2)), Source(name="public")
    return Task(name="own", shape=shape, private=private, public=public, **other)


def net(architecture, of_task, classes=10, width=1.0, seed=0):
    """A network as kdlib builds it, without an Experiment."""
    found, sizes = network(architecture)
    return found.build(of_task, classes, width, torch.Generator().manual_seed(seed), *sizes)


def record(step, subject, seconds, round_=1, metrics=None, **other):
    """A Record of one Step, and what else a test wants to say of it."""
    parts = other.pop("parts", None) or tuple(
        Part(step=part.name, round=part.round, seconds=seconds, metrics=metrics or {})
        for part in Step(step, round_, subject).parts)
    told = {"started": 0.0, "around": 0.0, "cold": False, "bytes_in": 0, "bytes_out": 0, "peak_memory": 2**30,
            "threads": 1, "backend": "inline"}
    return Record(run="0" * 16, round=round_, step=step, subject=subject, seconds=seconds, parts=parts, **told | other)


def run(folder, experiment, records, name="0" * 16):
    """A run's folder that holds these Records and nothing else."""
    place = folder / name
    (place / "records").mkdir(parents=True)
    (place / "experiment.json").write_text(experiment.model_dump_json())
    lines = "".join(record.model_copy(update={"run": name}).model_dump_json() + "\n" for record in records)
    (place / "records" / f"{records[0].backend}-1.jsonl").write_text(lines)
    return Run(place, experiment)
