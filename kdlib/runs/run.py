"""A run is its folder: what it holds, as records, tables and final bytes."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from pydantic import ValidationError

from kdlib.errors import KdlibError
from kdlib.invoke.metrics import expect_record
from kdlib.invoke.steps import Record
from kdlib.invoke.strategy import strategy_of
from kdlib.runs.journal import whole_lines
from kdlib.settings.experiment import Experiment, from_json
from kdlib.store import names
from kdlib.store.store import JSON, Store
from kdlib.toml import one_line


class Run(NamedTuple):
    """A run is its folder.

    experiment.json, machine.json, partition.parquet, records/INVOKER-N.jsonl (N: 1 the run, 2 ... its repetitions),
    store/, and result.json once it is complete.
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
        return Store(place.read_text() if place.exists() else str(self.folder / "store"))

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
        """All Records of the run (1) or of a repetition (2 ...), in the order in which they were written.

        Raises KdlibError, which names file and line, for what is no Record of this run.
        """
        files = sorted((self.folder / "records").glob(f"*-{repetition}.jsonl"))
        read = [record for file in files for record in self._read(file)]
        done = [step for record in read for step in record.done]
        if len(set(done)) < len(done):
            twice = next(step for step, times in Counter(done).items() if times > 1)
            raise KdlibError(f"{self.folder / 'records'} has {twice.name} of {twice.subject} in round {twice.round} "
                             "twice; allowed: each Step once")
        return read

    def _read(self, file: Path) -> Iterator[Record]:
        for number, line in enumerate(whole_lines(file), 1):
            try:
                record = Record.model_validate_json(line)
                expect_record(record, self.key, self.experiment)
            except (ValidationError, KdlibError) as error:
                raise KdlibError(f"{file} line {number} is no Record of this run: {one_line(error)}") from error
            yield record

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
        return pd.read_parquet(self.folder / "partition.parquet")

    def _with_architecture(self, rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
        models = {*self.experiment.client_names, *self.experiment.architectures}
        frame = pd.DataFrame(rows)
        architectures: list[Any] = [self.experiment.architecture_of(subject) if subject in models else None
                                    for subject in frame["subject"]]  # Any: pandas-stubs has no None in a column
        return frame.assign(architecture=architectures)


def load(folder: str | Path) -> Run:
    """The run in `folder`. Raises KdlibError where there is none."""
    folder = Path(folder)
    try:
        return Run(folder, from_json((folder / "experiment.json").read_text()))
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
