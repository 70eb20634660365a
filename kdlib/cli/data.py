"""`kdlib tasks`, `partition` and `data ...`: what clients learn from, and who holds what."""

from pathlib import Path
from typing import Annotated

import typer

from kdlib.cli.options import Alpha, Csv, Seed, Task
from kdlib.errors import KdlibError
from kdlib.settings.task import built_in, task_file

app = typer.Typer()
data_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Get data sets, or list them.")
app.add_typer(data_app, name="data")


@app.command()
def tasks() -> None:
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
    strategy: Annotated[str | None, typer.Option(help="Whose data, where the task has others for some.")] = None,
    csv: Csv = False,
) -> None:
    """Who would hold what: items per client and label, by the law of the paper; or items per client and owner."""
    from kdlib.data import partition as law
    from kdlib.data import sets
    from kdlib.registry import STRATEGIES
    from kdlib.settings.architectures import ZOOS
    from kdlib.settings.experiment import make_experiment
    from kdlib.settings.task import load_task

    chosen = load_task(task, strategy)
    mine = chosen.items not in ZOOS  # then kdlib has no network for it, and none has a say in who holds what
    if mine and chosen.by_owners and alpha is not None:
        raise KdlibError(f"task {chosen.name} has no alpha, its owners are the clients; allowed: none")
    experiment = make_experiment("digits" if mine else chosen, strategy or STRATEGIES.names()[0], alpha, seed, "paper",
                                 clients=clients, architectures=ZOOS["image" if mine else chosen.items][:1])
    if mine:
        experiment = experiment.model_copy(update={"task": chosen} | ({"alpha": None} if chosen.by_owners else {}))
    drawn = sets.prepare(experiment)
    parts = law.partition(experiment, drawn.private.y, drawn.private.owner)
    table = law.table(parts, drawn.private.y, experiment.client_names, drawn.roles)
    for note in drawn.notes:
        typer.echo(f"kdlib: {note}", err=True)
    if csv:
        typer.echo(table.to_csv(index=False), nl=False)
    elif drawn.roles:
        typer.echo(table.groupby(["client", "role"])["items"].sum().reset_index().to_string(index=False))
        if drawn.unknown:
            typer.echo("characters that the vocabulary lacks: " + ", ".join(
                f"{share:.2%} of the {name} text" for name, share in drawn.unknown.items()))
    else:
        typer.echo(table.pivot(index="client", columns="label", values="items").fillna(0).astype(int).to_string())
        typer.echo(f"{clients} clients of {len(parts.parts[0])} items, {parts.unused} unused; mean label entropy "
                   f"{law.label_entropy(table):.3f} nats; {parts.draws} draws, {parts.moved} items moved")


@data_app.command("fetch")
def data_fetch(
    names: Annotated[list[str], typer.Argument(help="Data sets, for example mnist emnist_letters.")],
    registry: Annotated[Path | None, typer.Option(help="A .toml file of a mirror's addresses and hashes.")] = None,
) -> None:
    """Download official data sets, check their hashes, and convert them to kdlib's files; a cut transfer is resumed."""
    from kdlib.data import fetch, sets

    for name in names:
        typer.echo(fetch.fetch(name, sets.folder(), registry or fetch.BUILT_IN_REGISTRY))


@data_app.command("list")
def data_list() -> None:
    """The data sets that can be fetched, and whether they are here."""
    from kdlib.data import fetch, sets

    for name, (about, file) in fetch.describe().items():
        here = "here" if (sets.folder() / file).is_file() else "not here"
        typer.echo(f"{name:16} {here:9} {about}")
    typer.echo(f"folder: {sets.folder()} (KDLIB_DATA names another)")
