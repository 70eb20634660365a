"""A run is its folder: what it holds, as records, tables and final bytes."""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from pydantic import ValidationError

from kdlib.cohort import attendance
from kdlib.errors import KdlibError, Missing
from kdlib.invoke.metrics import expect_record
from kdlib.invoke.steps import Record, Step
from kdlib.invoke.strategy import strategy_of
from kdlib.runs import files
from kdlib.runs.journal import whole_lines
from kdlib.settings.experiment import Experiment, from_json
from kdlib.store import names
from kdlib.store.store import JSON, Store
from kdlib.toml import one_line

LEFT_OUT = "left_out.jsonl"


class Run(NamedTuple):
    """A run is its folder.

    experiment.json, machine.json, data.json, partition.parquet, records/INVOKER-N.jsonl (N: 1 the run, 2 ... its
    repetitions), store/, left_out.jsonl where a round left clients out (kdlib.runs.absences), and result.json once it
    is complete.
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
        return Store(files.store_url(place, self.key) if place.exists() else self.folder / "store")

    @property
    def has_store(self) -> bool:
        """Whether there ever was one: of a run that was kept (kdlib.runs.archive) there is none."""
        return (self.folder / "store.url").exists() or (self.folder / "store").exists()

    @property
    def data(self) -> dict[str, Any]:
        """notes: what was strange about the data; unknown: shares of a text's characters (kdlib.data.splits.RunData).

        Empty of a run that was made before kdlib wrote them down.
        """
        path = self.folder / "data.json"
        return files.json_object(path) if path.exists() else {}

    @property
    def result(self) -> dict[str, Any] | None:
        """What the last line of `kdlib run` says, or None while the run is not complete."""
        path = self.folder / "result.json"
        return files.result(path, self.key, self.experiment) if path.exists() else None

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
        journals = sorted((self.folder / "records").glob(f"*-{repetition}.jsonl"))
        read = [record for file in journals for record in self._read(file)]
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
        return files.partition(self.folder / "partition.parquet", self.experiment)

    def _with_architecture(self, rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
        models = {*self.experiment.client_names, *self.experiment.architectures}
        frame = pd.DataFrame(rows)
        if frame.empty:  # nothing is done yet
            frame = pd.DataFrame(columns=["step", "round", "subject", "seconds"])
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
    path = folder / "experiment.json"
    if not path.exists():
        raise KdlibError(f"{folder} holds no run: No such file or directory: experiment.json")
    try:
        return Run(folder, from_json(files.text(path)))
    except KdlibError as error:
        raise error if str(path) in str(error) else KdlibError(f"{path}: {error}") from error


def final_bytes(the_run: Run, store: Store, repetition: int = 1) -> str:
    """SHA-256 of what the rounds left, the last one's weights among it, and of every metric.

    What is `passing` (kdlib.invoke.strategy) is no part of it, nor is JSON, nor what a client did that was left out.
    Raises Missing where an object is not there that a complete run leaves, as where a volume is not mounted.
    """
    digest, strategy, listed = hashlib.sha256(), strategy_of(the_run.experiment), store.names()
    done = {step: part for record in the_run.records(repetition) for step, part in record.done.items()}
    counted, void = _counted(the_run.experiment, store, listed)
    if gone := sorted(_expected(the_run.experiment, filter(counted, done)) - set(listed)):
        raise Missing(f"{gone[0]} is not in {store.url}, nor are {len(gone) - 1} more of the run's objects; is the "
                      "volume there?")
    for name in listed:
        there = names.read(name)
        if there and there.kind not in strategy.passing and not there.kind.endswith(JSON) and name not in void:
            digest.update(name.encode() + hashlib.sha256(store.content(name)).digest())
    for step in sorted(filter(counted, done)):
        digest.update(json.dumps([*step, done[step].metrics], sort_keys=True).encode())
    return digest.hexdigest()


def _counted(experiment: Experiment, store: Store, listed: Iterable[str]) -> tuple[Callable[[Step], bool], set[str]]:
    """Whether a Step counts, by what is written down of its round, and the objects of those that do not.

    listed: the store's names.
    """
    strategy = strategy_of(experiment)
    rounds = [name.removeprefix(names.COHORTS).removesuffix(JSON) for name in listed if name.startswith(names.COHORTS)]
    there = {int(round_): attendance.read(store, int(round_)) for round_ in rounds if round_.isdecimal()}
    missed = {Step(name, round_, client) for round_, steps in there.items() for name, clients in steps.items()
              for client in experiment.client_names if client not in clients}
    return lambda step: step not in missed, {left for step in missed if (left := strategy.left_by(step))}


def _expected(experiment: Experiment, done: Iterable[Step]) -> set[str]:
    """The objects that a complete run leaves in its store: its data, and of what its Steps left what no sweep takes."""
    strategy, last = strategy_of(experiment), experiment.rounds
    found = {names.public("data"), names.VALIDATION, names.EXPERIMENT + JSON}
    found |= {names.private(client, "data") for client in experiment.client_names}
    for step in done:
        left = strategy.left_by(step)
        there = left and names.read(left)
        if left and there and (there.round == last or there.kind in strategy.keeps):
            found.add(left)
    if not strategy.personal:
        found |= {strategy.model(last, architecture) for architecture in experiment.architectures}
    return found


def evaluated(the_run: Run) -> pd.DataFrame:
    """Of `Run.steps`, those that measured an accuracy; empty while there is none."""
    steps = the_run.steps
    return steps[steps["accuracy"].notna()] if "accuracy" in steps else steps.iloc[:0].assign(accuracy=[])


def accuracy_by_architecture(the_run: Run) -> pd.DataFrame:
    """round, architecture, accuracy (0-1): the mean over the architecture's clients, or its server model.

    Raises KdlibError where a complete run's Records do not give what its result says.
    """
    table = evaluated(the_run).groupby(["round", "architecture"], as_index=False)[["accuracy"]].mean()
    if result := the_run.result:
        last = table[table["round"] == the_run.experiment.rounds]
        found = dict(zip(last["architecture"], last["accuracy"], strict=True))
        if not _close(found, result["per_architecture"]):
            raise KdlibError(f"{the_run.folder / 'records'} do not give the accuracies of result.json; one of them is "
                             "incomplete or altered")
    return table


def _close(one: dict[str, float], other: dict[str, float]) -> bool:
    return one.keys() == other.keys() and all(math.isclose(one[name], other[name]) for name in one)


def busy_seconds(records: list[Record]) -> float:
    """Wall seconds in which at least one Step ran: gaps between a kill and the next start do not count."""
    total, end = 0.0, 0.0
    for start, stop in sorted((r.started, r.started + r.seconds + r.around) for r in records):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total
