"""`kdlib run`, `replay`, `experiment`, `estimate`, `records`, `compare`, `export`: one run, or several side by side."""

import inspect
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdlib.cli.options import (
    Address,
    Csv,
    Fused,
    Gpus,
    InvokerName,
    Json,
    Prices,
    Run,
    Runs,
    Workers,
    makes_experiment,
)
from kdlib.errors import KdlibError

if TYPE_CHECKING:
    from kdlib.runs.run import Run as TheRun
    from kdlib.settings.experiment import Experiment

app = typer.Typer()


@app.command()
@makes_experiment(profile="laptop")
def run(
    experiment: "Experiment",
    runs: Runs = Path("runs"),
    invoker: InvokerName = "auto",
    address: Address = None,
    workers: Workers = None,
    endpoints: Annotated[Path | None, typer.Option(help="The functions' addresses, as `python -m faas up` writes "
                                                        "them.")] = None,
    gpus: Gpus = 1.0,
    worker_steps: Annotated[str, typer.Option(help="With http: where Steps run that no function does: auto, "
                                                   "inline, processes or ray.")] = "auto",
    store: Annotated[str | None, typer.Option(help="URL below which a new run's objects go, such as s3://bucket/runs; "
                                                   "default: the run's folder.")] = None,
    deadline: Annotated[float | None, typer.Option(min=0.1, help="With http: seconds that a round's stage waits for "
                                                                 "its clients; the late ones are left out.")] = None,
    least_share: Annotated[float, typer.Option(min=0, max=1, help="Of a stage's clients; with fewer in time the round "
                                                                  "fails.")] = 0.8,
    fused: Fused = False,
    again: Annotated[bool, typer.Option("--again", help="Repeat a complete run in an empty store and compare the final "
                                                        "bytes.")] = False,
) -> None:
    """Carry out one run, or what is left of it; a complete run is only read.

    Interrupt it whenever you like: the same command goes on where it stopped and ends with the same bytes. The last
    line of stdout is one JSON object: key, folder, accuracy (final mean over architectures, 0-1), per_architecture,
    rounds, seconds.
    """
    from kdlib.runs import runner  # only now: a mistake is told before torch is loaded
    from kdlib.runs.driver import Patience
    from kdlib.runs.invokers import make_invoker

    patience = Patience(deadline, least_share) if deadline else None
    with make_invoker(invoker, address, workers, endpoints, worker_steps, gpus, experiment) as means:
        the_run = runner.run(experiment, runs, invoker=means, fused=fused, patience=patience, store=store)
        same = runner.again(the_run, invoker=means, fused=fused) if again else None
    tell(the_run, same)


@app.command()
def replay(
    run: Run,
    invoker: InvokerName = "auto",
    address: Address = None,
    workers: Workers = None,
    fused: Fused = False,
) -> None:
    """Repeat a complete run in an empty store, with the clients that it called, and compare the final bytes."""
    from kdlib.invoke.choice import foresee

    foresee(invoker, workers)
    from kdlib.runs import runner
    from kdlib.runs.invokers import make_invoker
    from kdlib.runs.run import load

    the_run = load(run)
    with make_invoker(invoker, address, workers, experiment=the_run.experiment) as means:
        same = runner.again(the_run, invoker=means, fused=fused)
    tell(the_run, same)


@app.command()
@makes_experiment(profile="laptop")
def experiment(experiment: "Experiment") -> None:
    """The same settings as one JSON object, for `python -m faas` and for reading: every default is in it."""
    typer.echo(experiment.model_dump_json())


@app.command()
@makes_experiment(profile="paper")
def estimate(
    experiment: "Experiment",
    cores: Annotated[int | None, typer.Option(min=1, help="That the run would have; default: this machine's.")] = None,
    prices: Prices = "gcf",
    json_: Json = False,
) -> None:
    """How long a run would take here, how many bytes and what cost: one Step of each kind is made and scaled up."""
    from kdlib.reports import estimate as forecast
    from kdlib.reports.cost import load_prices

    found = forecast.estimate(experiment, load_prices(prices), cores)
    typer.echo(found.model_dump_json() if json_ else found.text())


@app.command()
def records(run: Run, csv: Csv = False) -> None:
    """What a run did so far: calls, seconds, bytes and cost per step, accuracy per round."""
    from kdlib.reports.summary import summary
    from kdlib.runs.run import accuracy_by_architecture, load

    the_run = load(run)
    if csv:
        typer.echo(the_run.table.to_csv(index=False), nl=False)
        return
    typer.echo(summary(the_run))
    data = the_run.data
    for line in [*data.get("notes", ()), *(f"{share:.2%} of the characters of the {name} text are not in the vocabulary"
                                           for name, share in data.get("unknown", {}).items())]:
        typer.echo(f"data: {line}")
    if len(curve := accuracy_by_architecture(the_run)):
        wide = curve.pivot(index="round", columns="architecture", values="accuracy")
        typer.echo("\naccuracy\n" + wide.round(3).to_string())


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="The folders of complete runs.")],
    prices: Prices = "gcf",
    csv: Csv = False,
) -> None:
    """Complete runs beside each other: the settings that differ, accuracy, time and cost."""
    from kdlib.reports.comparison import compare as beside

    table = beside(runs, prices)
    typer.echo(table.to_csv() if csv else table.round(4).T.to_string(), nl=not csv)


@app.command()
def export(
    run: Run,
    out: Annotated[Path, typer.Option(help="A new folder for the files.")],
) -> None:
    """Write a complete run's models for others: weights as safetensors, and a model card."""
    from kdlib.runs.exports import export as write
    from kdlib.runs.run import load

    for path in write(load(run), out):
        typer.echo(path)


@app.command()
def strategies() -> None:
    """The strategies that can be run here: kdlib's, those of installed packages and of plugins."""
    from kdlib.registry import STRATEGIES

    for name in STRATEGIES.names():
        try:
            found = STRATEGIES.find(name).value
        except KdlibError as error:  # of somebody's package, which the others need not be hidden for
            typer.echo(f"{name:12} {error}", err=True)
        else:
            about = (inspect.getdoc(found.settings) or " ").splitlines()[0]
            typer.echo(f"{name:12} {found.title:12} {about}")


def tell(the_run: "TheRun", same: bool | None) -> None:
    """The last line of stdout. same: whether a repetition ended with the same bytes. Raises KdlibError where not."""
    if same is False:
        raise KdlibError(f"run {the_run.key} repeated in an empty store ended with other final bytes")
    result = the_run.final | ({"repeated": "same final bytes"} if same else {})
    typer.echo(json.dumps({name: value for name, value in result.items() if name != "final_bytes"}))
