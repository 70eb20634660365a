"""The grid of runs and figures, executed as notebooks through papermill."""

import contextlib
import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import papermill
from tqdm.auto import tqdm

from kdlib.errors import KdlibError
from kdlib.invoke.choice import MOST, most
from kdlib.machine import cores
from kdlib.paper.grid import CALLED_FROM, Sheet
from kdlib.registry import PLUGINS
from kdlib.runs import archive
from kdlib.runs.run import below


def reproduce(stages: list[list[Sheet]], runs: Path, notebooks: Path, figures: Path, jobs: int | None = None,
              kept: bool = False) -> list[Path]:
    """Execute the sheets stage by stage (kdlib.paper.grid.plan), of each stage `jobs` side by side.

    Those share the cores: each may have so many Steps at a time, by KDLIB_WORKERS, that all of them have as many as
    there are cores, and no more notebooks than cores go at a time. jobs: default: two where each has two cores then,
    else one, so that the records of all runs are by processes and their times compare.

    With `kept`, runs whose records lie in FIGURES/records count as complete (kdlib.runs.archive). Executed notebooks
    lie in RUNS/notebooks. Returns the figures and tables that they wrote, newest last. Raises KdlibError for a
    parameter that a notebook lacks, and for a notebook that fails.
    """
    began, runs = time.time(), below(runs)
    runs.mkdir(parents=True, exist_ok=True)
    figures.mkdir(parents=True, exist_ok=True)
    if kept:
        archive.restore(figures / "records", runs)
    with _meant_from_here(), tqdm(total=sum(map(len, stages)), desc="notebooks", unit="notebook") as bar:
        for stage in stages:
            _execute(stage, notebooks, runs / "notebooks", jobs, bar)
    written = {path: path.stat().st_mtime for path in figures.glob("*.*") if path.stat().st_mtime >= began}
    return sorted((path for path in written if path.suffix in (".png", ".svg", ".csv")), key=written.__getitem__)


@contextlib.contextmanager
def _meant_from_here() -> Iterator[None]:
    """Inside, variables that name paths do so from any folder: kernels run in the notebooks'."""
    here, before = Path.cwd(), dict(os.environ)
    if data := before.get("KDLIB_DATA"):
        os.environ["KDLIB_DATA"] = str(here / data)
    plugins = before.get(PLUGINS, "").split(os.pathsep)
    os.environ[PLUGINS] = os.pathsep.join(str(here / word) if word.endswith(".py") else word for word in plugins)
    searched = [str(here / word) for word in before.get("PYTHONPATH", "").split(os.pathsep) if word]
    modules = any(word and not word.endswith(".py") for word in plugins)  # which may lie here
    os.environ["PYTHONPATH"] = os.pathsep.join([*searched, *([str(here)] if modules else [])])
    os.environ[CALLED_FROM] = str(here)
    try:
        yield
    finally:
        for name in ("KDLIB_DATA", PLUGINS, "PYTHONPATH", CALLED_FROM):
            os.environ.pop(name, None)
            os.environ.update({name: before[name]} if name in before else {})


def execute(sheet: Sheet, notebooks: Path, outputs: Path) -> Path:
    """Execute one notebook in its own kernel, in the notebooks' folder; returns the executed copy.

    Raises KdlibError for a parameter that the notebook lacks (papermill alone would only warn) and for a failed cell.
    """
    source = notebooks / f"{sheet.notebook}.ipynb"
    known = papermill.inspect_notebook(_literal(source))
    if unknown := sorted(set(sheet.parameters) - set(known)):
        raise KdlibError(f"{source.name} has no parameter {', '.join(unknown)}; allowed: {', '.join(known)}")
    outputs.mkdir(parents=True, exist_ok=True)
    target = outputs / sheet.name
    try:
        papermill.execute_notebook(_literal(source), _literal(target), sheet.parameters, cwd=str(notebooks),
                                   progress_bar=False, log_output=False, extra_arguments=["--log-level=CRITICAL"])
    except papermill.PapermillExecutionError as error:
        raise KdlibError(f"{source.name} failed: {error.ename}: {error.evalue}; see {target}") from error
    return target


def _literal(path: Path) -> str:
    """The path as papermill takes it, which would put parameters where braces are."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _execute(sheets: list[Sheet], notebooks: Path, outputs: Path, jobs: int | None, bar: tqdm) -> None:
    side_by_side, workers = share(jobs, len(sheets))
    spawn = multiprocessing.get_context("spawn")  # a fork that has Jupyter's sockets or torch's threads may hang
    with ProcessPoolExecutor(side_by_side, spawn, _may_have, (workers,)) as pool:
        waiting = [pool.submit(execute, sheet, notebooks, outputs) for sheet in sheets]
        try:
            for done in as_completed(waiting):
                bar.set_postfix_str(done.result().stem, refresh=False)
                bar.update()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def share(jobs: int | None, sheets: int) -> tuple[int, int]:
    """How many notebooks go side by side, and how many Steps at a time each may have: together as many as cores."""
    side_by_side = min(jobs or (2 if cores() >= 4 else 1), sheets, cores())
    return side_by_side, cores() // side_by_side


def _may_have(workers: int) -> None:
    """In a new process, whose kernels inherit it."""
    os.environ[MOST] = str(min(workers, most()))
