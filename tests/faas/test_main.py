"""`python -m faas render` as a user meets it, and what faas/README.md promises."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from deployments import IMAGE, SIGNING

import forked
from faas.__main__ import app
from faas.cluster.fields import quantity
from kdlib.cli import main
from kdlib.settings.experiment import make_experiment

ROOT = Path(__file__).parents[2]
README = (ROOT / "faas/README.md").read_text()
WALK = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)[0].splitlines()


def faas(*arguments, given="", **environment):
    """Runs `python -m faas ...`; returns the finished process."""
    others = {name: os.environ[name] for name in os.environ.keys() - {"KDLIB_SIGNING_KEY", "KDLIB_KNATIVE_CRD"}}
    return forked.run("faas", *arguments, cwd=ROOT, given=given, environment=others | environment)


@pytest.fixture
def experiment(tmp_path):
    path = tmp_path / "experiment.json"
    path.write_text(make_experiment("digits", "alone", 1, profile="smoke").model_dump_json())
    return path


def test_the_key_of_the_environment_is_taken_and_never_shown(experiment, tmp_path):
    command = ("render", "--experiment", experiment, "--image", IMAGE, "--out", tmp_path / "out")
    done = faas(*command, KDLIB_SIGNING_KEY=SIGNING)
    assert done.returncode == 0 and done.stdout.endswith("7 functions in namespace kdlib\n"), done.stderr
    assert SIGNING not in done.stdout + done.stderr
    wrong = faas(*command, KDLIB_SIGNING_KEY="private-short")
    assert wrong.returncode == 2 and "KDLIB_SIGNING_KEY is no signing key" in wrong.stderr
    assert "short" not in wrong.stderr


@pytest.mark.parametrize(("text", "options", "words"), [
    ("{}", [], ["not an experiment"]),
    ("no json", [], ["not an experiment"]),
    (None, [], ["experiment.json", "No such file"]),
    ("", ["--image", "A:B:C"], ["not an experiment"]),
    ("good", ["--image", "A:B:C"], ["--image", "lower case"]),
    ("good", ["--values", "absent.toml"], ["absent.toml", "No such file"]),
    ("good", ["--out", "faas"], ["faas is not what `render` wrote"]),
    ("good", ["--output", "x"], ["--output"]),
])
def test_a_mistake_is_one_line_and_leaves_nothing(text, options, words, experiment, tmp_path):
    if text is None:
        experiment.unlink()
    elif text != "good":
        experiment.write_text(text)
    done = faas("render", "--experiment", experiment, "--image", IMAGE, "--out", tmp_path / "out", *options)
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2 and len(lines) == 1 and lines[0].startswith("faas: "), done.stderr
    assert all(word in lines[0] for word in words), lines[0]
    assert [path.name for path in tmp_path.iterdir() if path != experiment] == []


def test_help_loads_no_torch():
    code = "import faas.__main__, sys; print({'torch', 'yaml', 'jsonschema'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout == "set()\n"


def test_ten_commands():
    assert len(WALK) == 10 and all(README.count(f"\n{number}. ") == 1 for number in range(1, 11))


@pytest.mark.parametrize("line", [part.strip() for line in WALK for part in line.split(" | ")
                                  if part.strip().startswith(("kdlib", "python -m faas"))])
def test_the_walks_commands_have_these_options(line):
    words = shlex.split(line)
    commands, words = (main.app, words[1:]) if words[0] == "kdlib" else (app, words[3:])
    command = typer.main.get_command(commands).commands[words[0]]
    assert command.make_context(words[0], words[1:]).params, "it raises for an option that is not there"


def test_the_walks_sixth_command_renders(tmp_path):
    kdlib, render = (shlex.split(part) for part in WALK[5].split(" | "))
    printed = subprocess.run([Path(sys.executable).with_name(kdlib[0]), *kdlib[1:]], capture_output=True, text=True)
    done = faas(*render[3:-1], tmp_path / "manifests", given=printed.stdout)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "manifests").glob("30-*.yaml"))) == 7


def test_what_the_smoke_runs_functions_keep_for_themselves(rendered):
    said = re.search(r"The smoke run's (\d+) functions keep ([\d.]+) vCPU and\s+([\d.]+) GiB", README)
    kept = [manifest["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]
            for manifest in rendered("feddf").values() if manifest["kind"] == "Service"]
    found = len(kept), sum(quantity(one["cpu"]) for one in kept), sum(quantity(one["memory"]) for one in kept) / 2**30
    assert tuple(map(float, said.groups())) == pytest.approx(found, abs=0.05)


def test_links_lead_somewhere():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")]
    assert links and [link for link in links if not (ROOT / "faas" / link).exists()] == []
