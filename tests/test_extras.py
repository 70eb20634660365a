"""What is not installed: without any extra kdlib runs, and what needs one says so in one line, with the command."""

import ast
import importlib.metadata
import itertools
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from kdlib.invoke.tokens import public_of
from without import plain

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
INSTALLED = {plain(one.name) for one in importlib.metadata.distributions()}
SIGNING = "private-" + "0123456789abcdef" * 2 + "0123456789A"  # the driving process's


def names(requirements):
    return {plain(re.match(r"[\w.-]+", line)[0]) for line in requirements}


def imported(folder):
    """Distribution -> the files below the folder that import it, at their top or inside."""
    found, brought_by = {}, importlib.metadata.packages_distributions()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            for top in {module.partition(".")[0] for module in modules} - set(sys.stdlib_module_names):
                for name in brought_by.get(top, ()):
                    found.setdefault(plain(name), set()).add(path.relative_to(ROOT).as_posix())
    return found


def run(modules, program, *words, cwd, **environment):
    """`program words` where the modules are not installed."""
    command = [sys.executable, ROOT / "tests/without.py", ",".join(modules), program, *map(str, words)]
    return subprocess.run(command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("folder", ["kdlib", "faas", "tests"])
def test_what_is_imported_is_declared(folder):
    extras = [lines for name, lines in EXTRAS.items() if name != "dev" or folder == "tests"]
    declared = names(itertools.chain(PROJECT["dependencies"], *extras)) | {"kdlib"}
    undeclared = {name: files for name, files in imported(folder).items() if name not in declared}
    if folder == "faas":  # func-python's own server, which is there wherever func-python imports this file
        assert undeclared.pop("hypercorn") == {"faas/function/func.py"}
    assert undeclared == {}


def test_what_is_declared_in_the_core_is_imported():
    by_pandas = {"pyarrow"}  # which writes partition.parquet with it
    assert names(PROJECT["dependencies"]) - set(imported("kdlib")) == by_pandas


def not_of_the_core():
    """Every module that neither kdlib's core nor what that asks for brings."""
    core, more = set(), names(PROJECT["dependencies"]) | {"kdlib"}
    while more:
        core |= more
        asked = [line for name in more for line in (importlib.metadata.requires(name) or ()) if "extra ==" not in line]
        more = {name for name in names(asked) if name in INSTALLED} - core
    return [top for top, brought_by in importlib.metadata.packages_distributions().items()
            if not {plain(name) for name in brought_by} & core]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with an experiment, an endpoints file, and a smoke run that was made without any extra."""
    folder = tmp_path_factory.mktemp("bare")
    bare = not_of_the_core()
    assert {"ray", "s3fs", "jwt", "tenacity", "matplotlib", "papermill", "IPython", "pytest"} <= set(bare)
    smoke = ("--task", "digits", "--strategy", "feddf", "--profile", "smoke")
    made = run(bare, "kdlib", "experiment", *smoke, cwd=folder)
    assert made.returncode == 0, made.stderr
    (folder / "experiment.json").write_text(made.stdout)
    done = run(bare, "kdlib", "run", *smoke, "--set", "rounds=1", cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "folder").write_text(json.loads(done.stdout)["folder"])
    (folder / "endpoints.json").write_text("{}")
    return folder


@pytest.mark.parametrize("words", ["tasks", "partition", "records RUN", "compare RUN", "export RUN --out models"])
def test_without_extras_it_works(words, place):
    words = words.replace("RUN", (place / "folder").read_text()).split()
    done = run(not_of_the_core(), "kdlib", *words, cwd=place)
    assert done.returncode == 0 and done.stdout, done.stderr


RUN = ("run", "--strategy", "fedmd", "--profile", "smoke")
RENDER = ("render", "--experiment", "experiment.json", "--image", "x/y:z", "--out", "manifests")
NEEDS = [
    ("ray", "ray", "kdlib", (*RUN, "--invoker", "ray")),
    ("ray", "ray", "kdlib", ("bench", "train", "--quick")),
    ("tenacity", "functions", "kdlib", (*RUN, "--invoker", "http", "--endpoints", "endpoints.json")),
    ("jwt", "functions", "faas", ("up", "--clients", "1")),
    ("cryptography", "functions", "faas", ("up", "--clients", "1")),
    ("yaml", "functions", "faas", ("deploy", "manifests")),
    ("jsonschema", "functions", "faas", RENDER),
    ("uvicorn", "functions", "faas.function.server", ()),
    ("starlette", "functions", "faas.function.server", ()),
    ("papermill", "notebooks", "kdlib", ("reproduce", "--notebooks", ROOT / "notebooks")),
    ("matplotlib", "notebooks", "kdlib", ("claims",)),
    ("seaborn", "notebooks", "kdlib", ("claims",)),
    ("nbformat", "notebooks", "kdlib", ("course", "--out", "handouts", "--notebooks", ROOT / "notebooks")),
    ("s3fs", "s3", "kdlib", (*RUN, "--store", "s3://bucket/runs")),
    ("aiohttp", "s3", "kdlib", (*RUN, "--store", "s3://bucket/runs")),
]


@pytest.mark.parametrize(("module", "extra", "program", "words"), NEEDS)
def test_what_is_missing_is_one_line_with_the_command(module, extra, program, words, place, tmp_path):
    for name in ("experiment.json", "endpoints.json"):
        (tmp_path / name).write_text((place / name).read_text())
    crd = tmp_path / "crd.yaml"
    crd.write_text("a: file that is never read")
    done = run([module], program, *words, cwd=tmp_path, KDLIB_KNATIVE_CRD=str(crd), KDLIB_SIGNING_KEY=SIGNING,
               KDLIB_PUBLIC_KEYS=public_of(SIGNING), KDLIB_SUBJECT="aggregator", KDLIB_STORE="file:///nowhere/{owner}")
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1 and f"pip install 'kdlib[{extra}]'" in done.stderr, done.stderr
    left = {path.name for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"}
    assert left == {"experiment.json", "endpoints.json", "crd.yaml"}


@pytest.mark.parametrize(("module", "extra", "code"), [
    ("jwt", "functions", "from kdlib.runs.invokers import make_invoker as m; m('http', endpoints='e').__enter__()"),
    ("matplotlib", "notebooks", "import kdlib.reports.figures"),
    ("IPython", "notebooks", "import kdlib; kdlib.live()"),
])
def test_the_library_raises_it_too(module, extra, code, tmp_path):
    done = run([module], "-c", code, cwd=tmp_path)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("kdlib.errors.KdlibError: ") and f"pip install 'kdlib[{extra}]'" in last, done.stderr


def test_another_missing_module_stays_a_bug(tmp_path):
    code = ("from kdlib.cli.main import main; import typer; app = typer.Typer(); "
            "app.command()(lambda: __import__('no_such_module')); import sys; del sys.argv[1:]; main(app)")
    done = run(["ray"], "-c", code, cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" in done.stderr and "no_such_module" in done.stderr
