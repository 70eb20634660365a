"""What the image is built of: packages from outside beside kdlib, and nothing that would replace the image's own."""

import os
import re
import subprocess
import sys
import zipfile

import pytest

from faas.__main__ import app
from faas.local.image import APART
from faas.local.wheels import add, collect, of_the_image
from functions import ROOT
from kdlib.errors import KdlibError

HAVE = {"kdlib": "0.1.0", "torch": "2.13.0"}
BACKEND = """
import zipfile

def build_wheel(folder, settings=None, metadata=None):
    with zipfile.ZipFile(f"{folder}/room-1.0-py3-none-any.whl", "w") as wheel:
        for name, text in FILES.items():
            wheel.writestr(name, text)
    return "room-1.0-py3-none-any.whl"
"""


def files(name, version, requires=()):
    """Of a wheel without any module."""
    about = f"{name}-{version}.dist-info"
    asked = "".join(f"Requires-Dist: {each}\n" for each in requires)
    asked += "".join(f"Provides-Extra: {each}\n" for each in re.findall("extra == '(.*)'", asked))
    return {f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{asked}",
            f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{about}/RECORD": ""}


def wheel(folder, name, version="1.0", requires=()):
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inside, text in files(name, version, requires).items():
            archive.writestr(inside, text)
    return path


def source(folder, requires=()):
    """A folder with a pyproject.toml, of the package `room`."""
    folder.mkdir()
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n')
    (folder / "backend.py").write_text(f"FILES = {files('room', '1.0', requires)}\n{BACKEND}")
    return folder


@pytest.fixture
def index(tmp_path, monkeypatch):
    """The only place from which pip takes packages; there is somebody else's kdlib in it."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.chdir(tmp_path)
    wheel(tmp_path / "index", "kdlib", "9.9")
    wheel(tmp_path / "index", "timm", "1.0", ["torch>=2", "hub[fast]>=2", "winning; sys_platform == 'win32'"])
    for version in ("1.0", "2.0", "3.0"):
        wheel(tmp_path / "index", "hub", version, ["quick; extra == 'fast'", "slow; extra == 'thorough'"])
    wheel(tmp_path / "index", "quick")
    (tmp_path / "lock").write_text("hub==2.0\n")
    (tmp_path / "wheels").mkdir()
    return tmp_path / "index"


def laid(tmp_path, *packages):
    """The names that `add` returns; they are what lies there."""
    found = add(tmp_path / "wheels", map(str, packages), HAVE, tmp_path / "lock")
    assert sorted(path.name for path in (tmp_path / "wheels").iterdir()) == sorted(found)
    return [name.removesuffix("-py3-none-any.whl") for name in found]


def test_a_folder_a_wheel_and_a_requirement(index, tmp_path):
    built = wheel(tmp_path / "dist", "own", requires=["kdlib", "torch<3", "room"])
    assert laid(tmp_path, source(tmp_path / "room", ["kdlib>=0.1"]), built) == ["room-1.0", "own-1.0"]


def test_what_a_package_needs_comes_in_the_locks_version_and_nothing_that_is_there(index, tmp_path):
    assert laid(tmp_path, "timm==1.0") == ["timm-1.0", "hub-2.0", "quick-1.0"]


def test_what_lies_here_by_that_name_is_not_looked_for_elsewhere(index, tmp_path):
    wheel(index, "room", "9.9")
    source(tmp_path / "room")
    assert laid(tmp_path, "room") == ["room-1.0"]


def test_an_earlier_version_goes(index, tmp_path):
    for version in ("1.0", "2.0"):
        assert laid(tmp_path, wheel(tmp_path / "dist", "own", version)) == [f"own-{version}"]


def test_what_is_there_already_is_not_asked_for(index, tmp_path):
    assert laid(tmp_path, "torch", "timm", "timm", "hub>1") == ["timm-1.0", "hub-2.0", "quick-1.0"]


@pytest.mark.parametrize(("package", "said"), [
    ("torch==2.0", "--with asks for torch==2.0, and the image has version 2.13.0"),
    ("old", "old asks for torch<2, and the image has version 2.13.0"),
    ("dist/torch-9.9-py3-none-any.whl", "is torch, of which the image has version 2.13.0"),
    ("dist/kdlib-9.9-py3-none-any.whl", "is kdlib, of which the image has version 0.1.0"),
    ("hub==3.0", "pip wheel failed: ERROR: "),  # another version than the lock's
    ("nowhere", "pip wheel failed: ERROR: Could not find a version that satisfies the requirement nowhere"),
    ("far", "far asks for nowhere @ https://example.org/nowhere.whl; allowed: names and versions"),
])
def test_what_does_not_go_with_the_image_is_one_line(package, said, index, tmp_path):
    for name in ("torch", "kdlib"):
        wheel(tmp_path / "dist", name, "9.9")
    wheel(index, "old", requires=["torch<2"])
    wheel(index, "far", requires=["nowhere @ https://example.org/nowhere.whl"])
    with pytest.raises(KdlibError) as error:
        laid(tmp_path, package)
    assert said in str(error.value) and "\n" not in str(error.value), error.value


@pytest.mark.parametrize("package", [
    "./absent", "absent/", "absent.whl", "empty", "notes.txt", "--index-url=https://example.org/", "two words", "",
    "timm; python_version < '3'",
    "own @ https://example.org/own.whl", "own @ file:///own.whl",
])
def test_what_is_no_package_is_said_before_anything_is_fetched(package, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(KdlibError, match=r"^--with .*: allowed: a folder with a pyproject\.toml, a wheel, or a requ"):
        collect(tmp_path / "wheels", ["timm==1.0", package])
    assert not (tmp_path / "wheels").exists()


def test_the_image_has_what_pip_would_install_of_the_wheels(index, tmp_path):
    (tmp_path / "requirements.txt").write_text("timm\n")
    wheel(index, "torch", "2.13.0")
    assert of_the_image(index, tmp_path / "requirements.txt", tmp_path / "lock") == {
        "timm": "1.0", "torch": "2.13.0", "hub": "2.0", "quick": "1.0"}


@pytest.mark.parametrize(("text", "status"), [("def part(): pass", 0), ("import absent", 1)])
def test_an_image_whose_packages_cannot_be_imported_is_not_built(text, status, tmp_path):
    (check,) = re.findall(r'python -c "(.*?)"', (ROOT / "faas/local/Dockerfile").read_text(), re.DOTALL)
    with zipfile.ZipFile(wheel(tmp_path, "own")) as archive:
        archive.extractall(tmp_path)
    (tmp_path / "own.py").write_text(text)
    (tmp_path / "own-1.0.dist-info" / "entry_points.txt").write_text("[kdlib.models]\nown = own:part\n")
    done = subprocess.run([sys.executable, "-c", check.replace("\\\n", "")], capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"})
    assert done.returncode == status, done.stderr
    assert ("cannot be imported (ModuleNotFoundError: No module named 'absent')" in done.stderr) == bool(status)


def test_the_dockerfile_installs_what_the_command_lays_out():
    text = (ROOT / "faas/local/Dockerfile").read_text()
    assert f"pip install --no-deps --requirement {APART} " in text


def test_the_command_takes_several(tmp_path):
    with pytest.raises(KdlibError, match=r"^--with absent/: allowed"):
        app(["image", "--with", "timm==1.0", "--with", "absent/", "--wheels", str(tmp_path / "new")],
            standalone_mode=False)
    assert not (tmp_path / "new").exists()
