"""Imports run downwards only, and what must start fast does not pull in what is slow."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_layers():
    linter = Path(sys.executable).with_name("lint-imports")
    linted = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert linted.returncode == 0, linted.stdout


def test_help_loads_neither_torch_nor_plotting():
    code = "import kdlib.cli.main, sys; print({'torch', 'lightning', 'matplotlib', 'pandas'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


def test_the_package_offers_what_it_imports_only_when_asked():
    code = ("import kdlib, sys; before = {'torch', 'pandas'} & set(sys.modules); "
            "print(before, all(hasattr(kdlib, name) for name in kdlib.__all__), "
            "set(kdlib.__all__) <= set(dir(kdlib)))")
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert told.strip() == "set() True True"


@pytest.mark.parametrize("package", ["kdlib", "faas"])
def test_every_room_is_a_layer_and_a_package(package):
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract.get("containers") == [package]]
    found = [path for path in (ROOT / package).iterdir() if path.suffix == ".py" or list(path.glob("*.py"))]
    rooms = {path.stem for path in found} - {"__init__"}
    assert rooms == set(re.findall(r"\w+", " ".join(layers)))
    assert [path.name for path in found if path.is_dir() and not (path / "__init__.py").is_file()] == []
