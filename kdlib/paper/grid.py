"""What is reproduced, as sheets: which notebook is executed with which parameters, in which order."""

import itertools
import os
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from kdlib.errors import KdlibError
from kdlib.settings.experiment import make_experiment
from kdlib.settings.task import load_task

CALLED_FROM = "KDLIB_CALLED_FROM"  # where `kdlib reproduce` was called, for notebooks that it executes elsewhere
FAULTS = (("02_fedmd", "transfer", "lost"), ("02_fedmd", "alignment", "permuted"), ("03_feddf", "kl", "reverse"))


class Sheet(NamedTuple):
    """One execution of a notebook: its name, and the values of its `parameters` cell."""

    notebook: str
    parameters: dict

    @property
    def name(self) -> str:
        """The executed notebook's file name: what differs from sheet to sheet is in it."""
        told = ("task", "profile", "alpha", "seed", *(switch for _, switch, _ in FAULTS))
        values = [value for word in told if (value := self.parameters.get(word)) is not None]
        values += self.parameters.get("strategies", [])
        words = [f"{value:g}" if isinstance(value, float) else Path(str(value)).stem for value in values]
        return "-".join([self.notebook, *words]) + ".ipynb"


class Grid(NamedTuple):
    """What is reproduced: every alpha with every seed; where clients are roles there is no alpha.

    `faults` adds a run of each of the artefact's faults, at the smallest alpha; `costs` adds those that make runs
    of their own: 05_time, 07_cost and, for texts, 05_retraining.
    """

    task: str
    profile: str
    alphas: list[float | None]
    seeds: list[int]
    faults: bool = False
    costs: bool = False

    @property
    def command(self) -> str:
        """Of the shell, for a caption or an index."""
        alphas = "" if self.alphas == [None] else f" --alphas '{' '.join(f'{alpha:g}' for alpha in self.alphas)}'"
        flags = " --faults" * self.faults + " --costs" * self.costs
        return (f"{self.call(self.task)} --profile {self.profile}{alphas} "
                f"--seeds '{' '.join(map(str, self.seeds))}'{flags}")

    @staticmethod
    def call(task: str) -> str:
        """`kdlib reproduce --task ...`, a task's file as it is named from where that was called."""
        if task.endswith(".toml"):
            task = os.path.relpath(Path(task).resolve(), Path(os.environ.get(CALLED_FROM, ".")).resolve())
        return f"kdlib reproduce --task {shlex.quote(task)}"

    def stages(self, notebooks: Path, runs: Path, figures: Path) -> list[list[Sheet]]:
        """Sheets by stage: those of one stage may run side by side, and read what the stages before it made.

        Raises KdlibError for values that no run could have.
        """
        by_roles = load_task(self.task).by_owners
        alphas = [None] if by_roles else self.alphas
        lowest = min((alpha for alpha in alphas if alpha is not None), default=None)
        expect_distinct("alphas", alphas)
        expect_distinct("seeds", self.seeds)
        for alpha, seed in itertools.product(alphas, self.seeds):
            make_experiment(self.task, "fedmd", alpha, seed, self.profile)

        def seen(path: str | Path) -> str:  # from the notebooks' folder itself, as that may be a link to another
            return os.path.relpath(Path(path).resolve(), notebooks.resolve())

        pictures = {"figures": seen(figures)}
        task = seen(self.task) if self.task.endswith(".toml") else self.task
        one = {"task": task, "profile": self.profile, "runs": seen(runs)}
        whole = one | pictures | {"alphas": alphas, "seeds": self.seeds}
        grid = [Sheet(notebook, one | {"alpha": alpha, "seed": seed})
                for seed in self.seeds for alpha in alphas for notebook in ("03_feddf", "02_fedmd")]
        if self.faults:
            grid += [Sheet(notebook, one | {"alpha": lowest, "seed": seed, switch: value})
                     for seed in self.seeds for notebook, switch, value in FAULTS]
        shared_out = "01_roles" if by_roles else "01_data_heterogeneity"
        stages = [[Sheet(shared_out, {"task": task, "seed": self.seeds[0]} | pictures)], grid,
                  [Sheet("04_accuracy", whole | {"faults": self.faults}), Sheet("06_speedups", pictures)]]
        if self.costs:  # one after another: 07 measures, and what runs beside it would be in its times
            stages += [[Sheet("05_time", whole)], [Sheet("07_cost", whole)]]
            if by_roles:
                own = {name: value for name, value in whole.items() if name != "alphas"}
                stages += [[Sheet("05_retraining", own | {"strategies": [name]})] for name in ("feddf", "fedmd")]
        return stages


def expect_distinct(what: str, values: Sequence[object]) -> None:
    """Raises KdlibError where one is there twice: it would count as two where it is one."""
    for value in values:
        if list(values).count(value) > 1:
            raise KdlibError(f"--{what} names {value} twice; allowed: each once")


def plan(grids: Iterable[Grid], notebooks: Path, runs: Path, figures: Path,
         only: Sequence[str] = ()) -> list[list[Sheet]]:
    """The stages of one grid after the other; with `only`, no other notebooks than these, wherever a grid has them.

    Raises KdlibError for a folder without notebooks, values that no run could have, and a notebook that there is not.
    """
    if not (notebooks / "04_accuracy.ipynb").is_file():
        raise KdlibError(f"{notebooks} holds no notebooks; call this where the repository is, or give --notebooks")
    grids = list(grids)
    names = [Path(grid.task).stem for grid in grids]
    if twice := [grid.task for grid, name in zip(grids, names, strict=True) if names.count(name) > 1]:
        raise KdlibError(f"the figures of {' and '.join(twice)} would have the same names; allowed: tasks, or files, "
                         "of different names")
    stages: list[list[Sheet]] = []
    for grid in grids:
        for stage in grid._replace(costs=grid.costs or bool(only)).stages(notebooks, runs, figures):
            stages.append([sheet for sheet in stage if all(sheet not in other for other in stages)])
    known = sorted({sheet.notebook for stage in stages for sheet in stage})
    if unknown := sorted(set(only) - set(known)):
        raise KdlibError(f"no notebook {', '.join(unknown)} in the grid; allowed: {', '.join(known)}")
    chosen = [[sheet for sheet in stage if not only or sheet.notebook in only] for stage in stages]
    return [stage for stage in chosen if stage]
