"""What `kdlib.__all__` names is documented and used, and the notebooks use nothing else of kdlib."""

import ast
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import nbformat
import pytest

import kdlib

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
WITH_FUNCTIONS = {"08_serverless"}  # notebooks that may import from faas
MODULES = {name: value for name in kdlib.__all__ if isinstance(value := getattr(kdlib, name), ModuleType)}
PUBLIC = {f"kdlib.{name}": getattr(kdlib, name) for name in kdlib.__all__}
PUBLIC |= {f"kdlib.{name}.{part}": getattr(module, part) for name, module in MODULES.items() for part in module.__all__}
SPACES = {"kdlib", *(f"kdlib.{name}" for name in MODULES)}  # whose names are looked at


def code(path):
    """Of all cells."""
    return "\n".join(cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code")


def misuses(source, packages=()):
    """What the source has of kdlib's inside, and of other packages of this repository than those."""
    nodes = list(ast.walk(ast.parse(source)))
    parts = [node for node in nodes if isinstance(node, ast.Attribute)]
    inside = [node for node in parts if ast.unparse(node.value) in SPACES and ast.unparse(node) not in PUBLIC]
    looked_into = {node.value for node in parts}
    passed_on = [node for node in nodes if isinstance(node, ast.Name | ast.Attribute)
                 and node not in looked_into and ast.unparse(node) in SPACES]
    imports = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)
               and ast.unparse(node) != "import kdlib" and _packages(node) & {"kdlib", "faas"} - set(packages)]
    return [ast.unparse(node) for node in imports + inside + passed_on]


def _packages(node):
    names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("name", PUBLIC)
def test_it_is_plain_data_or_documented(name):
    value = PUBLIC[name]
    if isinstance(value, type(Callable[[int], str])):  # a kind of function, described where it stands
        return
    said = "" if isinstance(value, str | tuple | dict) else (value.__doc__ or "").strip()
    made_up = said.startswith(f"{getattr(value, '__name__', '')}(")  # what Python writes for a class without one
    assert isinstance(value, str | tuple | dict) or (said and not made_up)


def test_every_name_is_used_by_a_notebook_or_shown_in_readme():
    shown = set(re.findall(r"\bkdlib\.(\w+)", README))
    for path in NOTEBOOKS:
        shown |= {node.attr for node in ast.walk(ast.parse(code(path)))
                  if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "kdlib"}
    assert {name for name in kdlib.PUBLIC if name not in shown} == set()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_uses_what_is_public_and_nothing_else(path):
    source = code(path)
    assert "import kdlib" in source.splitlines()
    assert misuses(source, ["faas"] if path.stem in WITH_FUNCTIONS else []) == []


@pytest.mark.parametrize("source", [
    "from kdlib.runs.runner import run", "from kdlib import run", "import kdlib.runs.run", "import kdlib as k",
    "kdlib.driver.sweep(0)", "kdlib.run_it()", "draw = kdlib.figures", "kdlib.figures.style.looks", "c = kdlib",
    "getattr(kdlib, 'runs')", "from faas.local import coldstart", "import numpy, faas",
])
def test_any_other_use_is_found(source):
    assert misuses(source)


def test_public_uses_are_none():
    assert misuses("import kdlib\nkdlib.run(kdlib.figures.find(kdlib.ZOO[:1]), kdlib.cost.PAPER['client'])") == []
