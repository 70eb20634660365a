"""A run is its folder: what it holds, as records, tables and final bytes."""

import hashlib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from kdlib.errors import KdlibError
from kdlib.files import content
from kdlib.invoke.steps import Record
from kdlib.invoke.strategy import strategy_of
from kdlib.settings.experiment import Experiment, from_json
from kdlib.store import names
from kdlib.store.store import JSON, Store

LARGEST = 2**20  # bytes of experiment.json


class Run(NamedTuple):
    """A run is its folder.

    experiment.json, machine.json, data.json, partition.parquet, records/INVOKER-N.jsonl (N: 1 the run, 2 ... its
    repetitions), store/, and result.json once it is complete.
    """

    folder: Path
    experiment: Experiment

    @property
    def key(self) -> str:
        """The folder's name: see Experiment.key."""
        return self.folder.name

    @property
    def store(self) -> Store:
        """What the Steps read and wrote: store/ in the folder, or where store.url says."""
        place = self.folder / "store.url"
        return Store(place.read_text() if place.exists() else self.folder / "store")

    @property
    def data(self) -> dict[str, Any]:
        """notes: what was strange about the data; unknown: shares of a text's characters (kdlib.data.splits.RunData).

        Empty of a run that was made before kdlib wrote them down.
        """
        path = self.folder / "data.json"
        return json.loads(path.read_text()) if path.exists() else {}

    @property
    def result(self) -> dict[str, Any] | None:
        """What the last line of `kdlib run` says, or None while the run is not complete."""
        path = self.folder / "result.json"
        return json.loads(path.read_text()) if path.exists() else None

    @property
    def final(self) -> dict[str, Any]:
        """What `result` says of a complete run. Raises KdlibError where it is none."""
        found = self.result
        if found is None:
            raise KdlibError(f"{self.folder} is not complete; the command that began it finishes it")
        return found

    def records(self, repetition: int = 1) -> list[Record]:
        """All Records of the run (1) or of a repetition (2 ...), in the order in which they were written."""
        files = sorted((self.folder / "records").glob(f"*-{repetition}.jsonl"))
        return [Record.model_validate_json(line) for file in files for line in whole_lines(file)]

    @property
    def table(self) -> pd.DataFrame:
        """One row an invocation: Record's columns, and architecture (None for the server)."""
        return self._with_architecture(record.model_dump(exclude={"parts"}) for record in self.records())

    @property
    def steps(self) -> pd.DataFrame:
        """One row a Step, several in a fused invocation: step, round, subject, seconds, architecture, its metrics."""
        rows = {step: part for record in self.records() for step, part in record.done.items()}
        return self._with_architecture({"step": step.name, "round": step.round, "subject": step.subject,
                                        "seconds": part.seconds} | part.metrics for step, part in rows.items())

    @property
    def partition(self) -> pd.DataFrame:
        """client, label, items, draws, moved, unused: see kdlib.data.partition.table."""
        with (self.folder / "partition.parquet").open("rb") as file:  # by its name, `a=1` in a folder's were a column
            return pd.read_parquet(file)

    def _with_architecture(self, rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
        models = {*self.experiment.client_names, *self.experiment.architectures}
        frame = pd.DataFrame(rows)
        architectures: list[Any] = [self.experiment.architecture_of(subject) if subject in models else None
                                    for subject in frame["subject"]]  # Any: pandas-stubs has no None in a column
        return frame.assign(architecture=architectures)


def below(runs: str | Path) -> Path:
    """The folder of runs. Raises KdlibError where it is a URL: a folder `s3:` would be made here without a word."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", str(runs)):
        raise KdlibError(f"{runs} is a URL, and runs lie in a folder; allowed: the folder's path, and `--store URL` "
                         "(of kdlib.run store=URL) for what the Steps read and write")
    return Path(runs)


def load(folder: str | Path) -> Run:
    """The run in `folder`. Raises KdlibError where there is none."""
    folder = Path(folder)
    try:
        return Run(folder, from_json(content(folder / "experiment.json", LARGEST)))
    except OSError as error:
        raise KdlibError(f"{folder} holds no run: {error.strerror}: experiment.json") from error


def final_bytes(the_run: Run, store: Store, repetition: int = 1) -> str:
    """SHA-256 of what the rounds left, the last one's weights among it, and of every metric.

    What is `passing` (kdlib.invoke.strategy) is no part of it, nor is JSON.
    """
    digest, passing = hashlib.sha256(), strategy_of(the_run.experiment).passing
    for name in store.names():
        there = names.read(name)
        if there and there.kind not in passing and not there.kind.endswith(JSON):
            digest.update(name.encode() + hashlib.sha256(store.content(name)).digest())
    done = {step: part for record in the_run.records(repetition) for step, part in record.done.items()}
    for step in sorted(done):
        digest.update(json.dumps([*step, done[step].metrics], sort_keys=True).encode())
    return digest.hexdigest()


def evaluated(the_run: Run) -> pd.DataFrame:
    """Of `Run.steps`, those that measured an accuracy; empty while there is none."""
    steps = the_run.steps
    return steps[steps["accuracy"].notna()] if "accuracy" in steps else steps.iloc[:0].assign(accuracy=[])


def accuracy_by_architecture(the_run: Run) -> pd.DataFrame:
    """round, architecture, accuracy (0-1): the mean over the architecture's clients, or its server model."""
    return evaluated(the_run).groupby(["round", "architecture"], as_index=False)[["accuracy"]].mean()


def busy_seconds(records: list[Record]) -> float:
    """Wall seconds in which at least one Step ran: gaps between a kill and the next start do not count."""
    total, end = 0.0, 0.0
    for start, stop in sorted((r.started, r.started + r.seconds + r.around) for r in records):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def whole_lines(file: Path, mend: bool = False) -> list[str]:
    """The file's lines that end; with `mend`, a torn last line is cut off, as it would spoil the next one."""
    if not file.exists():
        return []
    whole, _, torn = file.read_bytes().rpartition(b"\n")
    if torn and mend:
        os.truncate(file, len(whole) + bool(whole))
    return whole.decode().splitlines()
