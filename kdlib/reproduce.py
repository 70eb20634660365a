"""The grid of runs and figures, executed as notebooks through papermill."""

import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import papermill
from tqdm.auto import tqdm

from kdlib import archive
from kdlib.errors import KdlibError
from kdlib.experiment import make_experiment

FAULTS = (("02_fedmd", "transfer", "lost"), ("02_fedmd", "alignment", "permuted"), ("03_feddf", "kl", "reverse"))


class Sheet(NamedTuple):
    """One execution of a notebook: its name, and the values of its `parameters` cell."""

    notebook: str
    parameters: dict

    @property
    def name(self) -> str:
        """The executed notebook's file name: what differs from sheet to sheet is in it."""
        told = ("task", "profile", "alpha", "seed", *(switch for _, switch, _ in FAULTS))
        values = [self.parameters[word] for word in told if word in self.parameters]
        words = [f"{value:g}" if isinstance(value, float) else Path(str(value)).stem for value in values]
        return "-".join([self.notebook, *words]) + ".ipynb"


def reproduce(task: str, profile: str, alphas: list[float], seeds: list[int], faults: bool, runs: Path,
              notebooks: Path, figures: Path, jobs: int, kept: bool = False) -> list[Path]:
    """Execute 01, then 02 and 03 for every alpha and seed (and every fault), `jobs` side by side, then 04 and 06.

    With `kept`, runs whose records lie in FIGURES/records count as complete (kdlib.archive).
    Executed notebooks lie in RUNS/notebooks. Returns the figures and tables that they wrote, newest last.
    Raises KdlibError for values that no run could have, a parameter that a notebook lacks, or a notebook that fails.
    """
    for alpha in alphas:
        make_experiment(task, "fedmd", alpha, seeds[0], profile)
    if not (notebooks / "04_accuracy.ipynb").is_file():
        raise KdlibError(f"{notebooks} holds no notebooks; call this where the repository is, or give --notebooks")
    began = time.time()
    runs.mkdir(parents=True, exist_ok=True)
    figures.mkdir(parents=True, exist_ok=True)
    if kept:
        archive.restore(figures / "records", runs)
    here = {name: os.path.relpath(path, notebooks) for name, path in (("runs", runs), ("figures", figures))}
    own = {"task": os.path.relpath(task, notebooks) if task.endswith(".toml") else task, "profile": profile}
    single = own | {"runs": here["runs"]}
    grid = [Sheet(notebook, single | {"alpha": alpha, "seed": seed})
            for seed in seeds for alpha in alphas for notebook in ("03_feddf", "02_fedmd")]
    if faults:
        grid += [Sheet(notebook, single | {"alpha": min(alphas), "seed": seed, switch: value})
                 for seed in seeds for notebook, switch, value in FAULTS]
    first = Sheet("01_data_heterogeneity", {"task": own["task"], "seed": seeds[0], "figures": here["figures"]})
    last = [Sheet("04_accuracy", own | here | {"alphas": alphas, "seeds": seeds, "faults": faults}),
            Sheet("06_speedups", {"figures": here["figures"]})]
    with tqdm(total=len(grid) + 3, desc="notebooks", unit="notebook") as bar:
        for stage in ([first], grid, last):
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
