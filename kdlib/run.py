"""Drives a strategy's workflow: stages, records, resume, progress, final bytes."""

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import filelock
import numpy as np
import pandas as pd
import torch

from kdlib import alone, client, data, fedavg, feddf, fedmd
from kdlib.errors import KdlibError
from kdlib.experiment import Experiment, from_json
from kdlib.invoke import Inline, Invoker, Record, Step
from kdlib.machine import difference, machine
from kdlib.partition import partition, table
from kdlib.progress import Progress
from kdlib.store import Store

STRATEGIES = {"fedmd": fedmd, "feddf": feddf, "alone": alone, "fedavg": fedavg}

log = logging.getLogger("kdlib")

KEPT = ("consensus", "teacher")  # of every round; of the rest only what the last round left


def perform(experiment: Experiment, store: Store, step: Step) -> dict[str, float]:
    """Carry out one Step: its handler, at the experiment's threads, seeded by the Step alone."""
    torch.set_num_threads(experiment.threads)
    handler = STRATEGIES[experiment.strategy].HANDLERS[step.name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(experiment.entropy(step.round, step.subject, step.name))
        return handler(experiment, store, step.round, step.subject)


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
        """What the Steps read and wrote."""
        return Store(str(self.folder / "store"))

    @property
    def result(self) -> dict | None:
        """What the last line of `kdlib run` says, or None while the run is not complete."""
        path = self.folder / "result.json"
        return json.loads(path.read_text()) if path.exists() else None

    def records(self, repetition: int = 1) -> list[Record]:
        """All Records of the run (1) or of a repetition (2 ...), in the order in which they were written."""
        files = sorted((self.folder / "records").glob(f"*-{repetition}.jsonl"))
        return [Record.model_validate_json(line) for file in files for line in whole_lines(file)]

    @property
    def table(self) -> pd.DataFrame:
        """The Records as a table: Record's columns, architecture, and one column a metric."""
        rows = [record.model_dump(exclude={"metrics"}) | record.metrics for record in self.records()]
        names = {*self.experiment.client_names, *self.experiment.architectures}
        frame = pd.DataFrame(rows)
        return frame.assign(architecture=[self.experiment.architecture_of(subject) if subject in names else None
                                          for subject in frame["subject"]])

    @property
    def partition(self) -> pd.DataFrame:
        """client, label, items, draws, moved, unused: see kdlib.partition.table."""
        return pd.read_parquet(self.folder / "partition.parquet")


def load(folder: str | Path) -> Run:
    """The run in `folder`. Raises KdlibError where there is none."""
    folder = Path(folder)
    try:
        return Run(folder, from_json((folder / "experiment.json").read_text()))
    except OSError as error:
        raise KdlibError(f"{folder} holds no run: {error.strerror}: experiment.json") from error


def run(experiment: Experiment, runs: str | Path = "runs", progress: bool = True) -> Run:
    """Carry the experiment out in its folder below `runs`, or what is left of it; a complete run is only read.

    Killed at any moment and started again, it ends with the bytes of a run that was never killed.
    Raises KdlibError for data that are missing or unfit, and OSError where the folder cannot be written.
    """
    for architecture in experiment.architectures:
        client.start(experiment, architecture)  # says before anything is written that an image is too small
    drawn = data.prepare(experiment)
    key = experiment.key(drawn.hashes)
    folder = Path(runs) / key
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        if not folder.exists():
            _create(folder, experiment, drawn)
        the_run = Run(folder, experiment)
        if the_run.result is None:
            drive(the_run, the_run.store, Inline(perform), 1, progress)
            _finish(the_run)
    return the_run


def again(the_run: Run, progress: bool = True) -> bool:
    """Repeat a complete run in an empty store; True where its final bytes are the same."""
    if the_run.result is None:
        raise KdlibError(f"run {the_run.key} is not complete; run it to its end before repeating it")
    with _locked(the_run.folder):
        number = 2
        while list((the_run.folder / "records").glob(f"*-{number}.jsonl")):
            number += 1
        with _beside(the_run.folder / "again") as place:
            store = Store(str(place))
            deploy(the_run.experiment, data.prepare(the_run.experiment), store)
            drive(the_run, store, Inline(perform), number, progress)
            return final_bytes(the_run, store, number) == final_bytes(the_run, the_run.store)


def drive(the_run: Run, store: Store, invoker: Invoker, repetition: int, progress: bool) -> None:
    """Carry out every Step that has no Record yet, stage by stage, and append the Records as they come."""
    experiment = the_run.experiment
    file = the_run.folder / "records" / f"{invoker.name}-{repetition}.jsonl"
    file.parent.mkdir(exist_ok=True)
    whole_lines(file, mend=True)
    done = {record.done for record in the_run.records(repetition)}
    stages = list(STRATEGIES[experiment.strategy].workflow(experiment))
    title = f"{experiment.task.name} {experiment.strategy} alpha {experiment.alpha:g} seed {experiment.seed}"
    with file.open("a") as lines, Progress(title, [s for stage in stages for s in stage.steps], done, progress) as bar:
        for earlier, stage in zip([None, *stages], stages, strict=False):
            if earlier and earlier.round < stage.round:
                sweep(store, stage.round - 1)
            left = [step for step in stage.steps if step not in done]
            for record in invoker.run(the_run.key, experiment, store, left):
                lines.write(record.model_dump_json() + "\n")
                lines.flush()
                bar.tick(record)
    sweep(store, experiment.rounds)


def deploy(experiment: Experiment, drawn: data.RunData, store: Store) -> pd.DataFrame:
    """Lay every owner's data under its own prefix of the store; returns the partition's table."""
    parts = partition(experiment, drawn.private.y)
    for name, rows in zip(experiment.client_names, parts.parts, strict=True):
        store.put(f"{name}/data", _tensors(drawn.private.take(rows)))
    store.put("public/data", _tensors(drawn.public))
    store.put("public/test", _tensors(drawn.test))
    store.put("aggregator/validation", _tensors(drawn.validation))
    return table(parts, drawn.private.y, experiment.client_names)


def sweep(store: Store, before: int) -> None:
    """Delete what rounds earlier than `before` left, but for every round's consensus or teacher: nobody reads it."""
    for name in store.names():
        *_, round, kind = f"/{name}".split("/")
        if round.isdigit() and int(round) < before and kind not in KEPT:
            store.delete(name)


def final_bytes(the_run: Run, store: Store, repetition: int = 1) -> str:
    """SHA-256 of the last round's weights, every round's consensus or teacher, and every metric."""
    digest = hashlib.sha256()
    for name in store.names():
        *_, round, kind = f"/{name}".split("/")
        if round.isdigit() and kind not in ("logits", "digested", "samples"):
            digest.update(name.encode() + hashlib.sha256(store.content(name)).digest())
    for record in sorted(the_run.records(repetition), key=lambda record: record.done):
        digest.update(json.dumps([*record.done, record.metrics], sort_keys=True).encode())
    return digest.hexdigest()


def accuracy_by_architecture(the_run: Run) -> pd.DataFrame:
    """round, architecture, accuracy (0-1): the mean over the architecture's clients, or its server model."""
    rows = the_run.table.query("step == 'evaluate'")
    return rows.groupby(["round", "architecture"], as_index=False)["accuracy"].mean()


def whole_lines(file: Path, mend: bool = False) -> list[str]:
    """The file's lines that end; with `mend`, a torn last line is cut off, as it would spoil the next one."""
    if not file.exists():
        return []
    whole, _, torn = file.read_bytes().rpartition(b"\n")
    if torn and mend:
        os.truncate(file, len(whole) + bool(whole))
    return whole.decode().splitlines()


def _create(folder: Path, experiment: Experiment, drawn: data.RunData) -> None:
    wanted, items = getattr(experiment, "alignment_items", 0), len(drawn.public.y)
    if wanted > items:
        log.warning("kdlib: a round's alignment sample has all %d public items, as there are no %d", items, wanted)
    with _beside(folder) as place:
        deploy(experiment, drawn, Store(str(place / "store"))).to_parquet(place / "partition.parquet")
        (place / "experiment.json").write_text(experiment.model_dump_json(indent=2))
        (place / "machine.json").write_text(json.dumps(machine(), indent=2))
        place.rename(folder)


def _finish(the_run: Run) -> None:
    last = accuracy_by_architecture(the_run).query(f"round == {the_run.experiment.rounds}")
    per_architecture = dict(zip(last["architecture"], last["accuracy"], strict=True))
    result = {
        "key": the_run.key,
        "folder": str(the_run.folder),
        "accuracy": float(np.mean(list(per_architecture.values()))),
        "per_architecture": per_architecture,
        "rounds": the_run.experiment.rounds,
        "seconds": round(busy_seconds(the_run.records()), 2),
        "final_bytes": final_bytes(the_run, the_run.store),
    }
    beside = the_run.folder / "result.json.part"
    beside.write_text(json.dumps(result, indent=2))
    beside.rename(the_run.folder / "result.json")


def busy_seconds(records: list[Record]) -> float:
    """Wall seconds in which at least one Step ran: gaps between a kill and the next start do not count."""
    total, end = 0.0, 0.0
    for start, stop in sorted((r.started, r.started + r.seconds + r.around) for r in records):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time drives a run; also warns where it was begun on another kind of machine."""
    lock = filelock.FileLock(folder.parent / f".{folder.name}.lock", timeout=0)
    try:
        with lock:
            if folder.exists() and (changed := difference(json.loads((folder / "machine.json").read_text()))):
                log.warning("kdlib: run %s was begun elsewhere (%s): last bits may differ here", folder.name, changed)
            yield
    except filelock.Timeout as error:
        raise KdlibError(f"run {folder.name} is being carried out by another process; wait for it or end it") from error


@contextlib.contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """An empty folder next to `folder`, gone at the end; one that a killed process left is cleared first."""
    place = folder.parent / f".{folder.name}.new"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _tensors(split: data.Split) -> dict[str, torch.Tensor]:
    return {"x": torch.from_numpy(split.x), "y": torch.from_numpy(split.y)}
