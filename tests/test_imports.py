"""Imports run downwards only, and what must start fast does not pull in what is slow."""

import re
import subprocess
import sys
from pathlib import Path

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
            "print(before, all(callable(getattr(kdlib, name)) for name in kdlib.__all__), "
            "set(kdlib.__all__) <= set(dir(kdlib)))")
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert told.strip() == "set() True True"


def test_every_room_is_a_layer():
    declared = (ROOT / "pyproject.toml").read_text()
    rooms = [f"{package}.{path.stem}" for package in ("kdlib", "faas") for path in (ROOT / package).glob("[!_]*.py")]
    rooms += [f"kdlib.{path.parent.name}" for path in (ROOT / "kdlib").glob("*/__init__.py")]
    assert [room for room in rooms if not re.search(rf"{room}\b", declared)] == []
