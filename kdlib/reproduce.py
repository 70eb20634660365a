"""The grid of runs and figures, executed as notebooks through papermill."""

import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import papermill
from tqdm.auto import tqdm

from kdlib import archive
from kdlib.errors import KdlibError
from kdlib.grid import Grid, Sheet


def reproduce(grid: Grid, runs: Path, notebooks: Path, figures: Path, jobs: int, kept: bool = False,
              only: Sequence[str] = ()) -> list[Path]:
    """Execute 01, then 02 and 03 for every setting, `jobs` side by side, then 04 and 06, and 05 and 07 for `costs`.

    With `kept`, runs whose records lie in FIGURES/records count as complete (kdlib.archive); with `only`, no other
    notebooks than these are executed. Executed notebooks lie in RUNS/notebooks. Returns the figures and tables that
    they wrote, newest last. Raises KdlibError for values that no run could have, a notebook that there is not, a
    parameter that a notebook lacks, or a notebook that fails.
    """
    if not (notebooks / "04_accuracy.ipynb").is_file():
        raise KdlibError(f"{notebooks} holds no notebooks; call this where the repository is, or give --notebooks")
    stages = grid._replace(costs=grid.costs or bool(only)).stages(notebooks, runs, figures)
    known = sorted({sheet.notebook for stage in stages for sheet in stage})
    if unknown := sorted(set(only) - set(known)):
        raise KdlibError(f"no notebook {', '.join(unknown)} in the grid; allowed: {', '.join(known)}")
    stages = [[sheet for sheet in stage if not only or sheet.notebook in only] for stage in stages]
    began = time.time()
    runs.mkdir(parents=True, exist_ok=True)
    figures.mkdir(parents=True, exist_ok=True)
    if kept:
        archive.restore(figures / "records", runs)
    with tqdm(total=sum(map(len, stages)), desc="notebooks", unit="notebook") as bar:
        for stage in filter(None, stages):
            _execute(stage, notebooks, runs / "notebooks", jobs, bar)
    written = {path: path.stat().st_mtime for path in figures.glob("*.*") if path.stat().st_mtime >= began}
    return sorted((path for path in written if path.suffix in (".png", ".svg", ".csv")), key=written.get)


def execute(sheet: Sheet, notebooks: Path, outputs: Path) -> Path:
    """Execute one notebook in its own kernel, in the notebooks' folder; returns the executed copy.

    Raises KdlibError for a parameter that the notebook lacks (papermill alone would only warn) and for a failed cell.
    """
    source = notebooks / f"{sheet.notebook}.ipynb"
    known = papermill.inspect_notebook(str(source))
    if unknown := sorted(set(sheet.parameters) - set(known)):
        raise KdlibError(f"{source.name} has no parameter {', '.join(unknown)}; allowed: {', '.join(known)}")
    outputs.mkdir(parents=True, exist_ok=True)
    target = outputs / sheet.name
    try:
        papermill.execute_notebook(str(source), str(target), sheet.parameters, cwd=str(notebooks), progress_bar=False,
                                   log_output=False, extra_arguments=["--log-level=CRITICAL"])
    except papermill.PapermillExecutionError as error:
        raise KdlibError(f"{source.name} failed: {error.ename}: {error.evalue}; see {target}") from error
    return target


def _execute(sheets, notebooks, outputs, jobs, bar):
    spawn = multiprocessing.get_context("spawn")  # a fork of a process that has torch's threads may hang
    with ProcessPoolExecutor(min(jobs, len(sheets)), mp_context=spawn) as pool:
        waiting = [pool.submit(execute, sheet, notebooks, outputs) for sheet in sheets]
        try:
            for done in as_completed(waiting):
                bar.set_postfix_str(done.result().stem, refresh=False)
                bar.update()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
