"""`kdlib reproduce`, `claims`, `bench` and `course`: the experiments, claims, speed-ups and notebooks of the paper."""

import inspect
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from kdlib.cli.options import Json, Profile, Runs, names, numbers
from kdlib.errors import KdlibError

app = typer.Typer()

Notebooks = Annotated[Path, typer.Option(help="Folder that holds the notebooks.")]


@app.command()
def reproduce(
    tasks: Annotated[str, typer.Option("--tasks", "--task", help="Separated by blanks; a task's name or the path of a "
                                                                 ".toml file, in quotes of its own if it has "
                                                                 "blanks.")] = "digits",
    profile: Profile = "laptop",
    alphas: Annotated[str, typer.Option(help="Separated by blanks.")] = "100 0.1",
    seeds: Annotated[str, typer.Option(help="Separated by blanks.")] = "0",
    faults: Annotated[bool, typer.Option("--faults/--no-faults", help="Also run each of the artefact's faults, at the "
                                                                      "smallest alpha.")] = False,
    costs: Annotated[bool, typer.Option("--costs/--no-costs", help="Also 05_time and 07_cost, which make runs of their "
                                                                   "own.")] = False,
    only: Annotated[list[str] | None, typer.Option(help="Of the notebooks, only this; may be repeated.")] = None,
    runs: Runs = Path("runs"),
    notebooks: Notebooks = Path("notebooks"),
    figures: Annotated[Path, typer.Option(help="Folder for the figures and tables.")] = Path("papers_figures"),
    jobs: Annotated[int | None, typer.Option(min=1, help="Notebooks side by side, which share the cores; default: two "
                                                         "where each then has two cores, else one.")] = None,
    kept: Annotated[bool, typer.Option("--kept", help="Do not run again what has its records in the figures' folder: "
                                                      "draw from those.")] = False,
) -> None:
    """The whole grid through papermill, then every figure. A run that is complete is not run again."""
    from kdlib.paper.grid import Grid, plan

    settings = profile, numbers("alphas", alphas, float), numbers("seeds", seeds, int), faults, costs
    stages = plan([Grid(task, *settings) for task in names("tasks", tasks)], notebooks, runs, figures, only or ())
    from kdlib.paper import reproduction  # only now: a mistake is reported before papermill is loaded

    made = reproduction.reproduce(stages, runs, notebooks, figures, jobs, kept)
    typer.echo(f"executed notebooks: {runs / 'notebooks'}")
    typer.echo("figures and tables:")
    for path in made:
        typer.echo(f"  {path}")


@app.command()
def claims(
    tasks: Annotated[str, typer.Option(help="Separated by blanks.")] = "digits mnist",
    profile: Profile = "laptop",
    runs: Runs = Path("runs"),
    figures: Annotated[Path, typer.Option(help="Folder of the benches and estimates, and for CLAIMS.md.")] = Path(
        "papers_figures"),
) -> None:
    """The paper's claims beside ours, from all complete runs of the profile: CLAIMS.md."""
    from kdlib.paper import claims as paper
    from kdlib.reports.cost import built_in as tables
    from kdlib.reports.cost import load_prices
    from kdlib.reports.figures import note

    prices = [load_prices(name) for name in tables()]
    made = {task: paper.made(task, profile, runs) for task in names("tasks", tasks)}
    rows = [row for task, of_task in made.items()
            for row in paper.findings(of_task, prices, figures, paper.remake(task, profile, of_task))]
    rows += [row for task in made for row in paper.estimated(task, figures)]
    written = paper.write(rows, figures)
    named = shlex.quote(f"{shlex.join(made)} ").replace(" '", "'")  # in quotes, also where it is one
    command = f"kdlib claims --tasks {named} --profile {profile}"
    note(written.name, figures, "-", command, [one for of_task in made.values() for one in of_task])
    typer.echo(written)


@app.command()
def bench(
    name: Annotated[str, typer.Argument(help="train, predict, overhead, pretrain, distil, fused, scale or peers.")],
    json_: Json = False,
    pairs: Annotated[int, typer.Option(min=1, help="How often the sides take turns; three where a side takes over a "
                                                   "minute.")] = 5,
    device: Annotated[str, typer.Option(help="Of train and predict: cpu, cuda or mps.")] = "cpu",
    width: Annotated[float, typer.Option(min=0.01, max=4, help="Of train and predict: factor on the networks' "
                                                               "filters and units.")] = 1.0,
    batch: Annotated[int | None, typer.Option(min=2, help="Of train and predict: items of one; default: 128 images, "
                                                          "32 texts.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Tiny sizes, to see that it works; not for quoting.")] = False,
) -> None:
    """Measure a speed-up anew: both sides in one run, in turn, medians and spread."""
    from kdlib.paper.bench import BENCHES

    if name not in BENCHES:
        raise KdlibError(f"unknown bench '{name}'; allowed: {', '.join(BENCHES)}")
    asked: dict[str, Any] = {"device": device, "width": width, "batch": batch}
    asked = {option: value for option, value in asked.items() if value not in ("cpu", 1.0, None)}
    for option in asked.keys() - inspect.signature(BENCHES[name]).parameters:
        raise KdlibError(f"bench {name} has no --{option}; allowed with it: train, predict")
    found = BENCHES[name](pairs, quick, **asked)
    typer.echo(found.model_dump_json() if json_ else found.text())


@app.command()
def course(
    out: Annotated[Path, typer.Option(help="A new folder for them.")],
    notebooks: Notebooks = Path("notebooks"),
) -> None:
    """Copy the notebooks for a class: without solutions and outputs."""
    from kdlib.paper.course import handout

    typer.echo(f"{len(handout(notebooks, out))} notebooks in {out}")
