"""What README promises: its commands run, its example runs, its links and numbers are right."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import forked
from kdlib.data.fetch import available
from kdlib.settings.experiment import PROFILES, make_experiment
from kdlib.settings.task import Task

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = {kind: re.findall(rf"```{kind}\n(.*?)```", README, re.DOTALL) for kind in ("bash", "python", "toml")}
COMMANDS = [line for block in BLOCKS["bash"] for line in block.splitlines()]
QUICK = {"run": ["--profile", "smoke", "--set", "rounds=1"], "partition": [], "tasks": [], "data list": [],
         "estimate": ["--profile", "smoke"]}


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("make")])
def test_make_knows_the_target(line):
    planned = subprocess.run([*shlex.split(line), "--dry-run"], cwd=ROOT, capture_output=True, text=True)
    assert planned.returncode == 0, planned.stderr
    used = re.findall(r"(\w+)=", line)
    assert all(f"{name} ?=" in (ROOT / "Makefile").read_text() for name in used), used


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("kdlib") and "fetch" not in line])
def test_kdlib_runs_it(line, tmp_path):
    program, *words = shlex.split(line)
    known = [name for name in QUICK if " ".join(words).startswith(name)]
    assert len(known) == 1, f"how is `{line}` tested quickly?"
    done = forked.run(program, *words, *QUICK[known[0]], cwd=tmp_path)
    assert done.returncode == 0 and done.stdout, done.stderr


def test_what_it_fetches_can_be_fetched():
    names = [name for line in COMMANDS if "fetch" in line for name in shlex.split(line)[3:]]
    assert names and set(names) <= set(available())


@pytest.mark.parametrize("number", range(len(BLOCKS["python"])))
def test_an_example_runs(number, tmp_path):
    (tmp_path / "example.py").write_text(BLOCKS["python"][number])
    done = subprocess.run([sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "accuracy" in done.stdout, done.stderr


def test_the_task_file_is_one():
    (text,) = BLOCKS["toml"]
    assert Task(**tomllib.loads(text)).private.name == "marks"


def test_links_lead_somewhere():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")]
    assert links and [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("profile", PROFILES)
def test_the_profile_table_is_true(profile):
    (row,) = re.findall(rf"^\| `{profile}` \|(.*)\|$", README, re.MULTILINE)
    feddf = make_experiment("digits", "feddf", 1, profile=profile)
    cells = [cell.strip().replace(",", "") for cell in row.split("|")][1:]
    width = 1 / feddf.width
    expected = [feddf.clients, feddf.clients_per_round, feddf.samples or "all", feddf.rounds,
                "1" if width == 1 else f"1/{width:g}", feddf.local_epochs, feddf.alignment_items, feddf.distil_batches]
    assert all(cell.split(" ")[0] == str(value) for cell, value in zip(cells, expected, strict=True)), (cells, expected)
