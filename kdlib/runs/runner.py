"""Carries out an experiment in its folder, from the partition to the result."""

import contextlib
import errno
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import filelock
import numpy as np
import pandas as pd
import torch

from kdlib.cohort.history import follow
from kdlib.data import sets
from kdlib.data.partition import partition, table
from kdlib.errors import KdlibError
from kdlib.invoke.invokers import Invoker
from kdlib.learning.models import expect_fit
from kdlib.machine import difference, machine
from kdlib.runs import files
from kdlib.runs.absences import left_out
from kdlib.runs.driver import Patience, Watch, drive
from kdlib.runs.invokers import NAMES, make_invoker
from kdlib.runs.journal import write_whole
from kdlib.runs.run import Run, accuracy_by_architecture, below, busy_seconds, final_bytes, load
from kdlib.settings.experiment import Experiment
from kdlib.store import names
from kdlib.store.store import Store, absolute

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)  # flock on some network's

log = logging.getLogger("kdlib")


def run(experiment: Experiment, runs: str | Path = "runs", progress: bool = True, invoker: Invoker | None = None,
        fused: bool = False, patience: Patience | None = None, store: str | None = None,
        watch: Watch | None = None) -> Run:
    """Carry the experiment out in its folder below `runs`, or what is left of it; a complete run is only read.

    Killed at any moment and started again, it ends with the bytes of a run that was never killed, whatever the invoker
    and `fused` (FedMD's round in a quarter of the invocations). With `patience` a round may leave clients out.
    invoker: see kdlib.make_invoker; None: processes where there is room for two Steps at a time, else inline.
    store: URL below which a new run's objects go, each owner's as OWNER/KEY, for functions elsewhere; default: where
    the invoker's functions look, else the run's folder. watch: called with the run after every round, such as
    kdlib.live(); of a complete one, once.
    Raises KdlibError for data that are missing or unfit, and OSError where the folder cannot be written.
    """
    if store and "{owner}" in store:
        raise KdlibError(f"the store {store} names an {{owner}}, which a run adds itself; allowed: the URL before it")
    store, runs = store and absolute(store), below(runs)
    expect_fit(experiment)  # before anything is written
    drawn = sets.prepare(experiment)
    for note in drawn.notes:
        log.warning("kdlib: %s", note)
    key = experiment.key(drawn.hashes)
    folder = runs / key
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        if folder.exists():
            _expect_whole(load(folder), experiment)
        else:
            _create(folder, experiment, drawn, store or (invoker.store if invoker else None))
        the_run = Run(folder, experiment)
        if the_run.result is None:
            with _chosen(invoker, experiment) as means:
                drive(the_run, the_run.store, means, 1, progress, fused, patience, watch)
            _finish(the_run)
        elif watch:
            watch(the_run)
    return the_run


def again(the_run: Run, progress: bool = True, invoker: Invoker | None = None, fused: bool = False) -> bool:
    """Repeat a complete run in an empty store, by any invoker; True where its final bytes are the same.

    The same clients are called in each round, and those that were late or failed then are left out.
    Where the run's own objects are still there, they too must be those that its result names.
    Functions cannot reach that store: by http, run the experiment once more below another folder instead.
    """
    if the_run.result is None:
        raise KdlibError(f"run {the_run.key} is not complete; run it to its end before repeating it")
    if invoker and not invoker.replays:
        raise KdlibError(f"--again cannot go by {invoker.name}, whose functions do not reach an empty store; "
                         f"allowed: {', '.join(NAMES[:-1])}; or run it by http below another --runs")
    drawn = sets.prepare(the_run.experiment)
    if the_run.experiment.key(drawn.hashes) != the_run.key:
        raise KdlibError(f"run {the_run.key} cannot be repeated here: its data, or the code of its strategy or "
                         "networks, are others than they were; allowed: those that it was made of")
    with _locked(the_run.folder):
        number = 2
        while list((the_run.folder / "records").glob(f"*-{number}.jsonl")):
            number += 1
        with _beside(the_run.folder / "again") as place:
            store = Store(place)
            deploy(the_run.experiment, drawn, store)
            follow(the_run.experiment, store, the_run.records(), left_out(the_run.folder))
            with _chosen(invoker, the_run.experiment) as means:
                drive(the_run, store, means, number, progress, fused)
            wanted: str = the_run.final["final_bytes"]
            own = final_bytes(the_run, the_run.store) if the_run.has_store else wanted
            return final_bytes(the_run, store, number) == wanted == own


def deploy(experiment: Experiment, drawn: sets.RunData, store: Store) -> pd.DataFrame:
    """Lay every owner's data under its own prefix of the store; returns the partition's table."""
    parts = partition(experiment, drawn.private.y, drawn.private.owner)
    for number, (name, rows) in enumerate(zip(experiment.client_names, parts.parts, strict=True)):
        store.put(names.private(name, "data"), _tensors(drawn.private.take(rows)))
        if drawn.test.owner is not None:
            store.put(names.private(name, "test"), _tensors(drawn.test.take(drawn.test.owner == number)))
    store.put(names.public("data"), _tensors(drawn.public))
    if drawn.test.owner is None:
        store.put(names.public("test"), _tensors(drawn.test))
    store.put(names.VALIDATION, _tensors(drawn.validation))
    items = {name: len(rows) for name, rows in zip(experiment.client_names, parts.parts, strict=True)}
    store.put_json(names.SIZES, {"clients": items, "public": len(drawn.public.y)})
    store.put_json(names.EXPERIMENT, experiment.model_dump(mode="json"))
    if experiment.sources:
        store.put_json(names.SOURCES, experiment.sources)
    return table(parts, drawn.private.y, experiment.client_names, drawn.roles)


def _create(folder: Path, experiment: Experiment, drawn: sets.RunData, store: str | None) -> None:
    wanted, items = experiment.setting("alignment_items"), len(drawn.public.y)
    if wanted and wanted > items:
        log.warning("kdlib: a round's alignment sample has all %d public items, as there are no %d", items, wanted)
    with _beside(folder) as place:
        url = f"{store.rstrip('/')}/{{owner}}/{folder.name}" if store else None
        if url:
            (place / "store.url").write_text(url)
        with (place / "partition.parquet").open("wb") as file:  # a folder's name might be a URL to pandas
            deploy(experiment, drawn, Store(url or place / "store")).to_parquet(file)
        (place / "experiment.json").write_text(experiment.model_dump_json(indent=2))
        (place / "machine.json").write_text(json.dumps(machine(), indent=2))
        (place / "data.json").write_text(json.dumps({"notes": drawn.notes, "unknown": drawn.unknown}, indent=2))
        place.rename(folder)


def _expect_whole(found: Run, experiment: Experiment) -> None:
    """Raises KdlibError where somebody wrote in the folder of a run that is to go on, or removed what it began with."""
    if found.experiment.fingerprint() != experiment.fingerprint():
        raise KdlibError(f"{found.folder / 'experiment.json'} is not the experiment of run {found.key}; allowed: as it "
                         "was, or the folder gone, and the run begins anew")
    if found.result is None:  # else it is read when somebody asks for it
        _ = found.data, found.partition


def _finish(the_run: Run) -> None:
    last = accuracy_by_architecture(the_run).query(f"round == {the_run.experiment.rounds}")
    if last.empty:
        raise KdlibError(f"no Step of {the_run.experiment.strategy} has measured an accuracy in round "
                         f"{the_run.experiment.rounds}, the last; allowed: a strategy that does")
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
    if absent := sorted({(step.subject, step.round) for step in left_out(the_run.folder)}):
        result["left_out"] = {client: [round_ for other, round_ in absent if other == client] for client, _ in absent}
    write_whole(the_run.folder / "result.json", json.dumps(result, indent=2, allow_nan=False))


@contextlib.contextmanager
def _chosen(invoker: Invoker | None, experiment: Experiment) -> Iterator[Invoker]:
    """The invoker that was asked for, which stays open, or else the default one, which ends with the run."""
    if invoker:
        yield invoker
    else:
        with make_invoker(experiment=experiment) as made:
            yield made


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time drives a run; also warns where it was begun on another kind of machine."""
    lock = filelock.FileLock(folder.parent / f".{folder.name}.lock", timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise KdlibError(f"run {folder.name} is being carried out by another process; wait for it or end it") from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        raise KdlibError(f"{folder.parent} lies on a file system that gives no locks ({error.strerror}), so two "
                         "processes might carry out one run; allowed: a folder on a local disk (--runs, in Python "
                         "runs=), or this one mounted with locks") from error
    try:
        if folder.exists() and (changed := difference(files.machine(folder / "machine.json"))):
            log.warning("kdlib: run %s was begun elsewhere (%s): last bits may differ here", folder.name, changed)
        yield
    finally:
        lock.release()


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


def _tensors(split: sets.Split) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in zip(("x", "y", "at"), split[:3], strict=True)
            if array is not None}
