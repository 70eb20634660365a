"""`python -m faas image`: the functions' image, of this source and the locked versions of what a function needs."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from kdlib.errors import KdlibError

HERE = Path(__file__).parent
SOURCES = HERE.parents[1]
LOCK = SOURCES / "requirements.lock"
BASE = f"python:{sys.version_info.major}.{sys.version_info.minor}-slim-bookworm"  # the wheels are for this Python


def image(
    tag: Annotated[str, typer.Option(help="What the image is called.")] = "dev.local/kdlib:latest",
    base: Annotated[str, typer.Option(help=f"An image with Python {BASE[7:11]} and its venv.")] = BASE,
    wheels: Annotated[Path | None, typer.Option(help="A folder that keeps the wheels; those that it has are taken "
                                                     "from it.")] = None,
) -> None:
    """Build the functions' image with Docker.

    Wheels come from pip's index, as it is configured; on Linux it should know PyTorch's CPU index, as the CUDA build
    makes an image of several GB.
    """
    if not LOCK.is_file():
        raise KdlibError("the image is built from a checkout of the sources; there is no requirements.lock beside faas")
    with tempfile.TemporaryDirectory(prefix="kdlib-image-") as folder:
        context = Path(folder)
        for file in (HERE / "Dockerfile", HERE / "requirements.txt", LOCK):
            shutil.copy(file, context)
        collect(wheels or context / "wheels")
        if wheels:
            shutil.copytree(wheels, context / "wheels")
        _run("docker", "build", "--build-arg", f"BASE_IMAGE={base}", "--tag", tag, context)
    size = int(_run("docker", "image", "inspect", "--format", "{{.Size}}", tag))
    typer.echo(f"{tag}: {size / 1e9:.2f} GB")


def collect(folder: Path) -> None:
    """Lay the wheels of kdlib and of faas/requirements.txt, in the lock's versions, into the folder.

    Raises KdlibError where one cannot be had, or where PyTorch is the CUDA build.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
    _run(*pip, "download", "--only-binary", ":all:", "--constraint", LOCK, "--requirement", HERE / "requirements.txt",
         "--find-links", folder, "--dest", folder)
    if cuda := sorted(folder.glob("nvidia_*")):
        raise KdlibError(f"PyTorch's wheel is the CUDA build ({cuda[0].name} and {len(cuda) - 1} more came with it); "
                         "allowed: the CPU build, with PIP_EXTRA_INDEX_URL the address of PyTorch's CPU index")
    for old in folder.glob("kdlib-*.whl"):
        old.unlink()
    _run(*pip, "wheel", "--no-deps", "--wheel-dir", folder, SOURCES)


def _run(*command: object) -> str:
    """What the command prints. Raises KdlibError with the first line of its complaint where it fails."""
    try:
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    except FileNotFoundError as error:
        raise KdlibError(f"{command[0]} is not here; allowed: install Docker") from error
    if done.returncode:
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        errors = [line for line in said if "error" in line.lower()] or said[-1:] or ["it said nothing"]
        raise KdlibError(f"{command[0]} {command[1]} failed: {errors[0].strip()[:500]}")
    return done.stdout
