"""The wheels that the functions' image is built of: kdlib's, the lock's versions of what it needs, and more."""

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from importlib.metadata import Distribution, PathDistribution
from pathlib import Path
from zipfile import Path as Zipped

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import NormalizedName, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from kdlib.errors import KdlibError

HERE = Path(__file__).parent
SOURCES = HERE.parents[1]
LOCK = SOURCES / "constraints.txt"
REQUIREMENTS = HERE / "requirements.txt"
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")


def collect(folder: Path, packages: Iterable[str] = ()) -> list[str]:
    """Lay the wheels of kdlib, of REQUIREMENTS in the lock's versions, and of `packages` (see `add`) into the folder.

    Returns the names of those that are to be installed as they are, without what they ask for: kdlib's first. Raises
    KdlibError where one cannot be had, or where PyTorch is the CUDA build.
    """
    wanted = [_understood(word) for word in packages]
    folder.mkdir(parents=True, exist_ok=True)
    run(*PIP, "download", "--only-binary", ":all:", "--constraint", LOCK, "--requirement", REQUIREMENTS,
        "--find-links", folder, "--dest", folder)
    if cuda := sorted(folder.glob("nvidia_*")):
        raise KdlibError(f"PyTorch's wheel is the CUDA build ({cuda[0].name} and {len(cuda) - 1} more came with it); "
                         "allowed: the CPU build, with PIP_EXTRA_INDEX_URL the address of PyTorch's CPU index")
    kdlib = _wheel(folder, str(SOURCES))
    if not wanted:
        return [kdlib.name]
    have = of_the_image(folder) | {"kdlib": _about(kdlib).version}
    return [kdlib.name, *add(folder, wanted, have)]


def of_the_image(folder: Path, requirements: Path = REQUIREMENTS, lock: Path = LOCK) -> dict[str, str]:
    """Name -> version of what pip installs of the folder's wheels by the requirements, as the image does."""
    report = json.loads(run(*PIP, "install", "--dry-run", "--ignore-installed", "--no-index", "--find-links", folder,
                            "--constraint", lock, "--requirement", requirements, "--report", "-"))
    found = [each["metadata"] for each in report["install"]]
    return {canonicalize_name(each["name"]): each["version"] for each in found}


def add(folder: Path, packages: Iterable[str | Requirement], have: Mapping[str, str], lock: Path = LOCK) -> list[str]:
    """Lay the wheels of the packages into the folder, and of what they need beyond `have`; returns their names.

    packages: folders with a pyproject.toml, wheels, and requirements; have: name -> version of what is there, which is
    neither looked for nor replaced. The lock's versions hold for the rest. Raises KdlibError where a package cannot be
    had, where it is there already, or where it needs another version of what is there.
    """
    there, found, asked = dict(have), [], set()
    waiting = [("--with", package) for package in map(_understood, packages)]
    while waiting:
        whose, package = waiting.pop(0)
        if str(package) in asked:
            continue
        asked.add(str(package))
        extras = package.extras if isinstance(package, Requirement) else set()
        if isinstance(package, Requirement) and (name := canonicalize_name(package.name)) in there:
            if not package.specifier.contains(there[name], prereleases=True):
                raise KdlibError(f"{whose} asks for {package}, and the image has version {there[name]}; allowed: a "
                                 "package that goes with it")
            wheel = _present(folder, name, there[name]) if extras else None
        else:
            wheel = _wheel(folder, str(package), lock)
            name, version = _name(wheel), _about(wheel).version
            if name in there:
                raise KdlibError(f"{package} is {name}, of which the image has version {there[name]}; allowed: "
                                 "packages beside the image's own")
            there[name] = version
            found.append(wheel.name)
        if wheel:
            waiting += [(name, need) for need in _needs(wheel, extras)]
    return found


def run(*command: object) -> str:
    """What the command prints. Raises KdlibError with the first line of its complaint where it fails."""
    try:
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    except FileNotFoundError as error:
        raise KdlibError(f"{command[0]} is not here; allowed: install Docker") from error
    if done.returncode:
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        errors = [line for line in said if "error" in line.lower()] or said[-1:] or ["it said nothing"]
        program, what, *_ = ("pip", *command[len(PIP):]) if command[: len(PIP)] == PIP else command
        raise KdlibError(f"{program} {what} failed: {errors[0].strip()[:500]}")
    return done.stdout


def _understood(package: str | Requirement) -> str | Requirement:
    """A path that is there, absolute, or a requirement. What lies here by that name is not looked for elsewhere."""
    if isinstance(package, Requirement):
        return package
    path = Path(package)
    if path.exists() or "/" in package or package.endswith(".whl"):
        if (path.is_file() and path.suffix == ".whl") or (path / "pyproject.toml").is_file():
            return str(path.absolute())
    else:
        with contextlib.suppress(InvalidRequirement):
            requirement = Requirement(package)
            if not requirement.marker:
                return requirement
    raise KdlibError(f"--with {package}: allowed: a folder with a pyproject.toml, a wheel, or a requirement such as "
                     "timm==1.0")


def _wheel(folder: Path, package: str, lock: Path = LOCK) -> Path:
    """The package's own wheel, in the folder, where it replaces other versions."""
    with tempfile.TemporaryDirectory(prefix="kdlib-wheel-") as place:
        run(*PIP, "wheel", "--no-deps", "--only-binary", ":all:", "--constraint", lock, "--find-links", folder,
            "--wheel-dir", place, package)
        (made,) = Path(place).glob("*.whl")
        for old in folder.glob(f"{made.name.partition('-')[0]}-*.whl"):
            old.unlink()
        return Path(shutil.move(made, folder / made.name))


def _present(folder: Path, name: str, version: str) -> Path | None:
    wanted = name, Version(version)
    return next((wheel for wheel in folder.glob("*.whl") if parse_wheel_filename(wheel.name)[:2] == wanted), None)


def _needs(wheel: Path, extras: set[str]) -> list[Requirement]:
    """What it asks for here, with these extras; each without its condition, which pip would look at anew."""
    needs = []
    for need in map(Requirement, _about(wheel).requires or ()):
        if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in {"", *extras}):
            if need.url:
                raise KdlibError(f"{_name(wheel)} asks for {need}; allowed: names and versions")
            need.marker = None
            needs.append(need)
    return needs


def _name(wheel: Path) -> NormalizedName:
    return canonicalize_name(_about(wheel).metadata["Name"])


def _about(wheel: Path) -> Distribution:
    (about,) = (part for part in Zipped(wheel).iterdir() if part.name.endswith(".dist-info"))
    return PathDistribution(about)
