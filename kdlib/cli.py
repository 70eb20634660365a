"""`kdlib ...`: the command line."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from kdlib.errors import KdlibError
from kdlib.experiment import ZOOS, Experiment, make_experiment
from kdlib.options import (
    Address,
    Alpha,
    Fused,
    InvokerName,
    Profile,
    Runs,
    Seed,
    Task,
    Workers,
    makes_experiment,
    numbers,
)
from kdlib.task import built_in, load_task, task_file

app = typer.Typer(
    name="kdlib", no_args_is_help=True, add_completion=False, rich_markup_mode=None,
    help="Federated learning for clients of different architecture: FedMD and FedDF, reproduced.\n\n"
         "Start with: kdlib run --task digits --strategy feddf --alpha 0.1",
)
data_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Get data sets, or list them.")
app.add_typer(data_app, name="data")

INTERRUPTED = 130

@app.command()
@makes_experiment(profile="laptop")
def run(
    experiment: Experiment,
    runs: Runs = Path("runs"),
    invoker: InvokerName = "inline",
    address: Address = None,
    workers: Workers = None,
    endpoints: Annotated[Path | None, typer.Option(help="The functions' addresses, as `python -m faas up` writes "
                                                        "them.")] = None,
    pretrain: Annotated[str, typer.Option(help="With http: where FedMD's pre-training runs.")] = "inline",
    store: Annotated[str | None, typer.Option(help="URL below which a new run's objects go, such as s3://bucket/runs; "
                                                   "default: the run's folder.")] = None,
    deadline: Annotated[float | None, typer.Option(min=0.1, help="With http: seconds that a round's stage waits for "
                                                                 "its clients; the late ones are left out.")] = None,
    least_share: Annotated[float, typer.Option(min=0, max=1, help="Of a stage's clients; with fewer in time the round "
                                                                  "fails.")] = 0.8,
    fused: Fused = False,
    again: Annotated[bool, typer.Option("--again", help="Repeat a complete run in an empty store and compare the final "
                                                        "bytes.")] = False,
):
    """Carry out one run, or what is left of it; a complete run is only read.

    Interrupt it whenever you like: the same command goes on where it stopped and ends with the same bytes. The last
    line of stdout is one JSON object: key, folder, accuracy (final mean over architectures, 0-1), per_architecture,
    rounds, seconds.
    """
    from kdlib import run as driver  # only now: a mistake is told before torch is loaded
    from kdlib.drive import Patience
    from kdlib.invokers import make_invoker

    patience = Patience(deadline, least_share) if deadline else None
    with make_invoker(invoker, address, workers, endpoints, pretrain) as means:
        the_run = driver.run(experiment, runs, invoker=means, fused=fused, patience=patience, store=store)
        same = driver.again(the_run, invoker=means, fused=fused) if again else None
    tell(the_run, same)


@app.command()
def replay(
    run: Annotated[Path, typer.Argument(help="The folder of a complete run.")],
    invoker: InvokerName = "inline",
    address: Address = None,
    workers: Workers = None,
    fused: Fused = False,
):
    """Repeat a complete run in an empty store, with the clients that it called, and compare the final bytes."""
    from kdlib import run as driver
    from kdlib.invokers import make_invoker
    from kdlib.results import load

    the_run = load(run)
    with make_invoker(invoker, address, workers, None, "inline") as means:
        same = driver.again(the_run, invoker=means, fused=fused)
    tell(the_run, same)


@app.command()
@makes_experiment(profile="laptop")
def experiment(experiment: Experiment):
    """The same settings as one JSON object, for `python -m faas` and for reading: every default is in it."""
    typer.echo(experiment.model_dump_json())


@app.command()
@makes_experiment(profile="paper")
def estimate(
    experiment: Experiment,
    cores: Annotated[int | None, typer.Option(min=1, help="That the run would have; default: this machine's.")] = None,
    prices: Annotated[str, typer.Option(help="A built-in price table, or the path of a .toml file.")] = "gcf",
    json_: Annotated[bool, typer.Option("--json", help="One JSON object on stdout instead of the text.")] = False,
):
    """How long a run would take here, how many bytes and what cost: one Step of each kind is made and scaled up."""
    from kdlib import estimate as forecast
    from kdlib.cost import load_prices

    found = forecast.estimate(experiment, load_prices(prices), cores)
    typer.echo(found.model_dump_json() if json_ else found.text())


@app.command()
def records(run: Annotated[Path, typer.Argument(help="The run's folder, for example runs/5f32ff4ee09d0c31.")],
            csv: Annotated[bool, typer.Option("--csv", help="Every Record as one line of CSV instead.")] = False):
    """What a run did: seconds and bytes per step, accuracy per round."""
    from kdlib.results import accuracy_by_architecture, load

    the_run = load(run)
    table = the_run.table
    if csv:
        typer.echo(table.to_csv(index=False), nl=False)
        return
    steps = table.groupby("step", sort=False).agg(calls=("seconds", "size"), seconds=("seconds", "sum"),
                                                  bytes_in=("bytes_in", "sum"), bytes_out=("bytes_out", "sum"))
    typer.echo(steps.round({"seconds": 2}).to_string())
    if (the_run.steps["step"] == "evaluate").any():
        wide = accuracy_by_architecture(the_run).pivot(index="round", columns="architecture", values="accuracy")
        typer.echo("\naccuracy\n" + wide.round(3).to_string())


@app.command()
def tasks():
    """The tasks that come with kdlib; your own is a .toml file of the same form."""
    for name in built_in():
        file = task_file(name)
        typer.echo(f"{name:12} {file.task.about}")
        for words, task in [("", file.task), *((f"with {other}: ", file.of(other)) for other in file.instead)]:
            typer.echo(f"{'':12} {words}{task.summary}")


@app.command()
def partition(
    task: Task = "digits",
    alpha: Alpha = None,
    clients: Annotated[int, typer.Option(help="How many share the private data.")] = 100,
    seed: Seed = 0,
    csv: Annotated[bool, typer.Option("--csv", help="One line a client and label instead of the table.")] = False,
):
    """Who would hold what: items per client and label, by the law of the paper; or windows per client and role."""
    from kdlib import data
    from kdlib import partition as law

    chosen = load_task(task, "alone")
    experiment = make_experiment(chosen, "alone", alpha, seed, "paper", clients=clients,
                                 architectures=ZOOS[chosen.models][:1])
    drawn = data.prepare(experiment)
    parts = law.partition(experiment, drawn.private.y, drawn.private.owner)
    table = law.table(parts, drawn.private.y, experiment.client_names, drawn.roles)
    if csv:
        typer.echo(table.to_csv(index=False), nl=False)
    elif drawn.roles:
        typer.echo(table.groupby(["client", "role"])["items"].sum().reset_index(name="windows").to_string(index=False))
    else:
        typer.echo(table.pivot(index="client", columns="label", values="items").fillna(0).astype(int).to_string())
        typer.echo(f"{clients} clients of {len(parts.parts[0])} items, {parts.unused} unused; mean label entropy "
                   f"{law.label_entropy(table):.3f} nats; {parts.draws} draws, {parts.moved} items moved")


@data_app.command("fetch")
def data_fetch(
    names: Annotated[list[str], typer.Argument(help="Data sets, for example mnist emnist_letters.")],
    registry: Annotated[Path | None, typer.Option(help="A .toml file of a mirror's addresses and hashes.")] = None,
):
    """Download official data sets, check their hashes, and convert them to kdlib's files; a cut transfer is resumed."""
    from kdlib import data, fetch

    for name in names:
        typer.echo(fetch.fetch(name, data.folder(), registry or fetch.BUILT_IN_REGISTRY))


@data_app.command("list")
def data_list():
    """The data sets that can be fetched, and whether they are here."""
    from kdlib import data, fetch

    for name, (about, file) in fetch.describe().items():
        here = "here" if (data.folder() / file).is_file() else "not here"
        typer.echo(f"{name:16} {here:9} {about}")
    typer.echo(f"folder: {data.folder()} (KDLIB_DATA names another)")


@app.command()
def reproduce(
    tasks: Annotated[str, typer.Option("--tasks", "--task", help="Separated by blanks; a task's name or the path of a "
                                                                 ".toml file.")] = "digits",
    profile: Profile = "laptop",
    alphas: Annotated[str, typer.Option(help="Separated by blanks.")] = "100 0.1",
    seeds: Annotated[str, typer.Option(help="Separated by blanks.")] = "0",
    faults: Annotated[bool, typer.Option("--faults/--no-faults", help="Also run each of the artefact's faults, at the "
                                                                      "smallest alpha.")] = False,
    costs: Annotated[bool, typer.Option("--costs/--no-costs", help="Also 05_time and 07_cost, which make runs of their "
                                                                   "own.")] = False,
    only: Annotated[list[str] | None, typer.Option(help="Of the notebooks, only this; may be repeated.")] = None,
    runs: Runs = Path("runs"),
    notebooks: Annotated[Path, typer.Option(help="Folder that holds the notebooks.")] = Path("notebooks"),
    figures: Annotated[Path, typer.Option(help="Folder for the figures and tables.")] = Path("papers_figures"),
    jobs: Annotated[int, typer.Option(min=1, help="Notebooks that run side by side.")] = 2,
    kept: Annotated[bool, typer.Option("--kept", help="Do not run again what has its records in the figures' folder: "
                                                      "draw from those.")] = False,
):
    """The whole grid through papermill, then every figure. A run that is complete is not run again."""
    from kdlib.grid import Grid, plan

    settings = profile, numbers("alphas", alphas, float), numbers("seeds", seeds, int), faults, costs
    stages = plan([Grid(task, *settings) for task in tasks.split()], notebooks, runs, figures, only or ())
    from kdlib import reproduce as notebook  # only now: a mistake is told before papermill and torch are loaded

    made = notebook.reproduce(stages, runs, notebooks, figures, jobs, kept)
    typer.echo(f"executed notebooks: {runs / 'notebooks'}")
    typer.echo("figures and tables:")
    for path in made:
        typer.echo(f"  {path}")


@app.command()
def claims(
    tasks: Annotated[str, typer.Option(help="Separated by blanks.")] = "digits mnist",
    profile: Profile = "laptop",
    runs: Runs = Path("runs"),
    figures: Annotated[Path, typer.Option(help="Folder of the benches' results, and for CLAIMS.md.")] = Path(
        "papers_figures"),
):
    """The paper's claims beside ours, from all complete runs of the profile: CLAIMS.md."""
    from kdlib import claims as paper
    from kdlib.cost import built_in as tables
    from kdlib.cost import load_prices

    prices = [load_prices(name) for name in tables()]
    found = [row for task in tasks.split() for row in paper.of_task(task, profile, runs, prices, figures)]
    typer.echo(paper.write(found, figures))


@app.command()
def bench(
    name: Annotated[str, typer.Argument(help="train, predict, overhead, pretrain, distil, fused or scale.")],
    json_: Annotated[bool, typer.Option("--json", help="One JSON object on stdout instead of the text.")] = False,
    pairs: Annotated[int, typer.Option(min=1, help="How often the sides take turns; three where a side takes over a "
                                                   "minute.")] = 5,
    quick: Annotated[bool, typer.Option("--quick", help="Tiny sizes, to see that it works; not for quoting.")] = False,
):
    """Measure a speed-up anew: both sides in one run, in turn, medians and spread."""
    from kdlib.bench import BENCHES

    if name not in BENCHES:
        raise KdlibError(f"unknown bench '{name}'; allowed: {', '.join(BENCHES)}")
    found = BENCHES[name](pairs, quick)
    typer.echo(found.model_dump_json() if json_ else found.text())


def tell(the_run, same: bool | None) -> None:
    """The last line of stdout. same: whether a repetition ended with the same bytes. Raises KdlibError where not."""
    if same is False:
        raise KdlibError(f"run {the_run.key} repeated in an empty store ended with other final bytes")
    result = the_run.result | ({"repeated": "same final bytes"} if same else {})
    typer.echo(json.dumps({name: value for name, value in result.items() if name != "final_bytes"}))


def main(commands: typer.Typer = app, program: str = "kdlib") -> None:
    """The console script: an error that the user can mend is one line on stderr and exit status 2."""
    try:
        status = commands(standalone_mode=False) or 0
        if status == INTERRUPTED:  # typer has turned the interrupt into a status
            fail(program, "interrupted; the same command goes on from here")
    except KdlibError as error:
        status = fail(program, str(error))
    except OSError as error:
        status = fail(program, f"cannot write or read {error.filename or 'a file'}: {error.strerror or error}")
    except Exception as error:
        if not hasattr(error, "format_message"):  # anything but a complaint of the command-line parser is a bug
            raise
        status = fail(program, error.format_message())
    sys.exit(status)


def fail(program: str, message: str) -> int:
    """Print one line; returns the exit status of a mistake that the user can mend."""
    print(f"{program}: " + " ".join(message.split()), file=sys.stderr)
    return 2
