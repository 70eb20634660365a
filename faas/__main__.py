"""`python -m faas ...`: functions on this machine, and on a cluster."""

import os
from pathlib import Path
from typing import Annotated

import typer

from faas.local import image, lifecycle
from kdlib.cli.main import Plugged, main, plugged

app = typer.Typer(
    name="faas", cls=Plugged, no_args_is_help=True, add_completion=False, rich_markup_mode=None,
    help="kdlib's Steps as HTTP functions, each client's with its own data.",
)
app.callback()(plugged)
app.command()(lifecycle.up)
app.command()(lifecycle.down)
app.command()(image.image)

Folder = Annotated[Path, typer.Argument(help="Where `render` wrote the manifests.")]


@app.command()
def render(
    experiment: Annotated[Path, typer.Option(help="What `kdlib experiment ...` prints.")],
    image: Annotated[str, typer.Option(help="The functions' image, for example dev.local/kdlib:latest.")],
    out: Annotated[Path, typer.Option(help="A new folder, or one that was rendered before and is replaced.")],
    values: Annotated[Path | None, typer.Option(help="A .toml file of what differs from "
                                                        "faas/cluster/values.toml.")] = None,
    rotate: Annotated[bool, typer.Option("--rotate", help="Make a new signing key; functions accept the earlier one "
                                                          "too, until the next `render`.")] = False,
) -> None:
    """Write the Knative manifests of a deployment, checked; a wrong one is told and nothing is written.

    The signing key is KDLIB_SIGNING_KEY of the environment, kept from the last time, or made. KDLIB_KNATIVE_CRD names
    Knative's own schema, to check by that too.
    """
    from faas.cluster.values import load_values
    from kdlib.settings.experiment import from_json

    wanted, settings = from_json(experiment.read_text(encoding="utf-8")), load_values(values)
    from faas.cluster.folder import render as write  # only now: a mistake is told before torch is loaded

    deployment = write(wanted, image, settings, out, os.environ.get("KDLIB_SIGNING_KEY"), rotate)
    typer.echo(f"{len(deployment.manifests)} manifests in {out}: {len(deployment.functions)} functions in namespace "
               f"{deployment.namespace}")


@app.command()
def deploy(
    folder: Folder,
    ray: Annotated[bool, typer.Option("--ray", help="Also the RayCluster, with KubeRay's operator there.")] = False,
    seconds: Annotated[int, typer.Option(min=1, help="To wait until every function is ready.")] = 600,
) -> None:
    """Apply the manifests to kubectl's current cluster and wait for the functions."""
    from faas.cluster import kubectl
    from faas.cluster.deployment import Deployment

    deployment = Deployment(folder)
    kubectl.deploy(deployment, ray, seconds)
    typer.echo(f"{len(deployment.functions)} functions are ready in namespace {deployment.namespace}")


@app.command()
def endpoints(
    folder: Folder,
    out: Annotated[Path, typer.Option(help="The endpoints file; the signing key is written beside it.")],
    ingress: Annotated[str | None, typer.Option(help="URL to call where the functions' names do not resolve, for "
                                                     "example http://127.0.0.1; the name goes into Host.")] = None,
) -> None:
    """Write where the functions are, for `kdlib run --invoker http --endpoints FILE`."""
    from faas.cluster import kubectl
    from faas.cluster.deployment import Deployment

    deployment = Deployment(folder)
    there = kubectl.endpoints(deployment, ingress)
    kubectl.write_endpoints(there, deployment.key, out)
    typer.echo(f"{len(there.functions)} functions in {out}")


@app.command()
def func(folder: Folder, out: Annotated[Path, typer.Option(help="A new folder.")]) -> None:
    """Write a project for each function, for Knative's own `func deploy --path OUT/FUNCTION`; the store is in S3."""
    from faas.cluster.deployment import Deployment
    from faas.cluster.func import write

    deployment = Deployment(folder)
    write(deployment, out)
    typer.echo(f"{len(deployment.functions)} projects in {out}")


@app.command()
def delete(folder: Folder) -> None:
    """Remove the deployment from the cluster, with all that is in its namespace; the store's objects stay."""
    from faas.cluster import kubectl
    from faas.cluster.deployment import Deployment

    kubectl.delete(Deployment(folder), lambda line: typer.echo(line, err=True))


@app.command()
def coldstart(
    docker: Annotated[bool, typer.Option("--docker/--process", help="Containers of an image, or processes.")] = False,
    starts: Annotated[int, typer.Option(min=1, help="Of each kind.")] = 5,
    image: Annotated[str, typer.Option(help="With --docker.")] = "dev.local/kdlib:latest",
    json_: Annotated[bool, typer.Option("--json", help="One JSON object on stdout instead of the text.")] = False,
) -> None:
    """Measure cold and warm calls of a client's function, started as `up` starts it."""
    from faas.local.coldstart import measure

    found = measure(docker, starts, image)
    typer.echo(found.model_dump_json() if json_ else found.text())


if __name__ == "__main__":
    main(app, "faas")
