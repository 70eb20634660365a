"""Records and runs made by hand, with times that a test can add up on paper."""

from kdlib.invoke.steps import Part, Record
from kdlib.runs.run import Run


def record(step, subject, seconds, round_=1, metrics=None, **other):
    """A Record of one Step, and what else a test wants to say of it."""
    parts = other.pop("parts", None) or (Part(step=step, round=round_, seconds=seconds, metrics=metrics or {}),)
    told = {"started": 0.0, "around": 0.0, "cold": False, "bytes_in": 0, "bytes_out": 0, "peak_memory": 2**30,
            "threads": 1, "backend": "inline"}
    return Record(run="0" * 16, round=round_, step=step, subject=subject, seconds=seconds, parts=parts, **told | other)


def run(folder, experiment, records, name="0" * 16):
    """A run's folder that holds these Records and nothing else."""
    place = folder / name
    (place / "records").mkdir(parents=True)
    (place / "experiment.json").write_text(experiment.model_dump_json())
    lines = "".join(record.model_dump_json() + "\n" for record in records)
    (place / "records" / f"{records[0].backend}-1.jsonl").write_text(lines)
    return Run(place, experiment)
