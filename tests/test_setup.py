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
LOCK = (ROOT / "requirements.lock").read_text()
VERSIONS = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
EXACT = re.compile(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*")
HASHED = re.compile(r"^([\w.-]+)(?:\[[a-z0-9, -]+\])?(==[0-9][A-Za-z0-9.]*)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$",
                    re.MULTILINE)


def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_version_is_exact_and_from_the_index():
    assert all(EXACT.fullmatch(line) for line in VERSIONS), "no address, no local build"
    assert "torch==2.13.0" in VERSIONS
    assert len({plain(line.split("==")[0]) for line in VERSIONS}) == len(VERSIONS)


def test_the_lock_has_the_same_versions_with_hashes_and_nothing_else():
    assert [name + version for name, version, _ in HASHED.findall(LOCK)] == VERSIONS
    assert re.fullmatch(r"(#.*\n)+\n*", HASHED.sub("", LOCK)), "no options, no addresses"
    (torch,) = [hashes for name, _, hashes in HASHED.findall(LOCK) if name == "torch"]
    assert torch.count("sha256") == 1, "with the hash of the CUDA build pip may prefer it"


def test_all_that_the_project_asks_for_is_locked():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    extras.pop("peers")  # whose Ray is another than ours
    wanted = [*project["dependencies"], *itertools.chain(*extras.values())]
    locked = {plain(line.split("==")[0]) for line in VERSIONS}
    assert {plain(re.split(r"[\[>=<]", line)[0]) for line in wanted} <= locked


def test_conda_takes_the_locks_versions():
    *_, pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert pip["pip"] == ["--requirement constraints.txt", "--editable ."]


def test_a_machine_differs_from_another_in_what_decides_bytes_alone():
    here = machine.machine()
    assert machine.difference(here) == ""
    assert machine.difference(here | {"cores": 99, "memory": 1, "cpu": "other"}) == ""
    assert machine.difference(here | {"torch": "1.0"}) == f"torch 1.0 there, {here['torch']} here"
    assert "flags" in machine.difference(here | {"flags": []})
    assert f"{here['cores']} cores" in machine.hardware()


def test_variables_that_hold_the_cpus_instructions_back_are_kept_with_a_run_and_told(monkeypatch):
    before = machine.machine()
    assert "limits" not in before, "one of them is set where the tests run"
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert machine.machine()["limits"] == {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    assert machine.difference(before) == "limits None there, {'ONEDNN_MAX_CPU_ISA': 'AVX2'} here"
    held = machine.machine()
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    assert machine.difference(held) == "limits {'ONEDNN_MAX_CPU_ISA': 'AVX2'} there, None here"


def test_the_peak_of_memory_is_the_process_own():
    code = "from kdlib.machine import peak_memory; print(peak_memory())"
    ballast = bytearray(300 * 2**20)  # what the child must not be charged with
    told = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert 2**20 < told < len(ballast) < peak_memory()
