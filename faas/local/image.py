"""`python -m faas image`: the functions' image, of this source and the locked versions of what a function needs."""

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from kdlib.errors import KdlibError

APART = "apart.txt"  # of the image's context: wheels to install without what they ask for
BASE = f"python:{sys.version_info.major}.{sys.version_info.minor}-slim-bookworm"  # the wheels are for this Python


def image(
    tag: Annotated[str, typer.Option(help="What the image is called.")] = "dev.local/kdlib:latest",
    base: Annotated[str, typer.Option(help=f"An image with Python {BASE[7:11]} and its venv.")] = BASE,
    wheels: Annotated[Path | None, typer.Option(help="A folder that keeps the wheels; those that it has are taken "
                                                     "from it.")] = None,
    with_: Annotated[list[str] | None, typer.Option("--with", metavar="PACKAGE", help=(
        "With strategies or networks: a folder with a pyproject.toml, a wheel, or a requirement; may be given several "
        "times."))] = None,
) -> None:
    """Build the functions' image with Docker.

    Wheels come from pip's index, as it is configured; on Linux it should know PyTorch's CPU index, as the CUDA build
    makes an image of several GB.
    """
    from faas.local.wheels import HERE, LOCK, REQUIREMENTS, collect, run

    if not LOCK.is_file():
        raise KdlibError("the image is built from a checkout of the sources; there is no constraints.txt beside faas")
    with tempfile.TemporaryDirectory(prefix="kdlib-image-") as folder:
        context = Path(folder)
        for file in (HERE / "Dockerfile", REQUIREMENTS, LOCK):
            shutil.copy(file, context)
        apart = collect(wheels or context / "wheels", with_ or ())
        (context / APART).write_text("".join(f"./wheels/{name}\n" for name in apart))
        if wheels:
            shutil.copytree(wheels, context / "wheels")
        run("docker", "build", "--build-arg", f"BASE_IMAGE={base}", "--tag", tag, context)
    size = int(run("docker", "image", "inspect", "--format", "{{.Size}}", tag))
    typer.echo(f"{tag}: {size / 1e9:.2f} GB")
