"""One set of versions, exact, for pip, conda and Binder; and what a machine is."""

import itertools
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

from kdlib import machine
from kdlib.machine import peak_memory

ROOT = Path(__file__).parents[1]
LOCK = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
EXACT = re.compile(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*")


def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_version_is_exact_and_from_the_index():
    assert all(EXACT.fullmatch(line) for line in LOCK), "no address, no local build"
    assert "torch==2.13.0" in LOCK
    assert len({plain(line.split("==")[0]) for line in LOCK}) == len(LOCK)


def test_all_that_the_project_asks_for_is_locked():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    locked = {plain(line.split("==")[0]) for line in LOCK}
    assert {plain(re.split(r"[\[>=<]", line)[0]) for line in wanted} <= locked


def test_conda_takes_the_lock():
    *_, pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert pip["pip"] == ["--requirement requirements.lock", "--editable ."]


def test_a_machine_differs_from_another_in_what_decides_bytes_alone():
    here = machine.machine()
    assert machine.difference(here) == ""
    assert machine.difference(here | {"cores": 99, "memory": 1, "cpu": "other"}) == ""
    assert machine.difference(here | {"torch": "1.0"}) == f"torch 1.0 there, {here['torch']} here"
    assert "flags" in machine.difference(here | {"flags": []})
    assert f"{here['cores']} cores" in machine.hardware()


def test_the_peak_of_memory_is_the_process_own():
    code = "from kdlib.machine import peak_memory; print(peak_memory())"
    ballast = bytearray(300 * 2**20)  # what the child must not be charged with
    told = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert 2**20 < told < len(ballast) < peak_memory()
