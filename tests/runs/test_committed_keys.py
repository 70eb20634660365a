"""The keys of all published runs are what they were: each is computed anew from its settings and the data."""

import csv
import functools
import json
import zipfile
from pathlib import Path

import pytest

from kdlib.data import sets
from kdlib.errors import KdlibError
from kdlib.settings.experiment import from_json

FIGURES = Path(__file__).parents[2] / "papers_figures"
RECORDS = sorted((FIGURES / "records").glob("*.zip"))


def committed(path):
    with zipfile.ZipFile(path) as archive:
        return from_json(archive.read("experiment.json"))


@functools.cache
def hashes(task, example):
    """Of the task's data, whoever asks; None where they are not here."""
    try:
        return sets.prepare(from_json(example)).hashes
    except KdlibError:
        return None


def test_the_keys_of_the_committed_runs_are_what_they_were():
    wrong, skipped = [], set()
    for path in RECORDS:
        experiment = committed(path)
        own = hashes(json.dumps(experiment.task.model_dump(mode="json"), sort_keys=True), experiment.model_dump_json())
        if own is None:
            skipped.add(experiment.task.name)
        elif experiment.key(own) != path.stem:
            wrong.append((path.stem, experiment.title))
    assert wrong == []
    if skipped:
        pytest.skip(f"the others are right; no data here of {', '.join(sorted(skipped))}")


def test_every_run_of_the_index_has_its_records():
    rows = list(csv.DictReader((FIGURES / "index.csv").open()))
    assert {key for row in rows for key in row["runs"].split()} <= {path.stem for path in RECORDS}
    assert len(RECORDS) > 100
