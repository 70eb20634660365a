"""What a contributor meets first: workflow, hooks, forms and the changelog are well-formed and agree with the lock."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
VERSIONS = (ROOT / "constraints.txt").read_text()
LOCKED = dict(re.findall(r"^([A-Za-z0-9._-]+)==([0-9A-Za-z.]+)", VERSIONS, re.MULTILINE))
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def load(path):
    return yaml.safe_load((ROOT / path).read_text())


def test_hooks_have_the_locks_versions():
    versions = {repo["repo"].rpartition("/")[2]: repo["rev"].removeprefix("v")
                for repo in load(".pre-commit-config.yaml")["repos"]}
    assert versions.pop("ruff-pre-commit") == LOCKED["ruff"]
    assert {name for name in versions if name in LOCKED} == set(), "a hook of the lock is not compared"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_read_alone_and_names_major_versions(path):
    workflow = load(path)
    assert workflow["permissions"] == {"contents": "read"}
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert not any("permissions" in job for job in workflow["jobs"].values())
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"]) for step in steps if "uses" in step)
    made = [step["run"].split()[1] for step in steps if step.get("run", "").startswith("make ")]
    assert made and all(re.search(rf"^{re.escape(name)}:", (ROOT / "Makefile").read_text(), re.M) for name in made)
    pythons = {step["with"]["python-version"] for step in steps if "python-version" in step.get("with", {})}
    assert pythons <= {line.rpartition(" ")[2] for line in PROJECT["classifiers"]}


def test_what_the_workflow_lints_with_is_locked():
    (tools,) = re.findall("pip install --constraint constraints.txt (.+)", WORKFLOWS[0].read_text())
    assert set(tools.split()) <= set(LOCKED)


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_a_form_asks_something(path):
    form = load(path)
    assert form["name"] and form["description"]
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert {field["type"] for field in fields} <= {"input", "textarea", "dropdown", "checkboxes"}
    assert all(field["attributes"]["label"] for field in fields)
    assert len({field["id"] for field in fields}) == len(fields) > 0
    assert any(field.get("validations", {}).get("required") for field in fields)


def test_there_are_forms_and_a_workflow():
    assert {path.stem for path in FORMS} >= {"bug", "question"} and WORKFLOWS


def test_the_changelog_has_this_version_and_what_comes():
    headings = re.findall(r"^## \[(.+?)\](?: - (\d{4}-\d\d-\d\d))?$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == ("Unreleased", "")
    assert PROJECT["version"] in dict(headings[1:]) and all(date for _, date in headings[1:])
    assert load("CITATION.cff")["version"] == PROJECT["version"]


def test_the_address_stands_in_one_place():
    (address,) = PROJECT["urls"].values()
    folders = ("kdlib", "faas", "tests", "docs", "notebooks", ".github", ".ci")
    files = [path for path in ROOT.iterdir() if path.is_file()]
    files += [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    here = address.removeprefix("https://").encode()
    assert [path.name for path in files if path.suffix != ".pyc" and here in path.read_bytes()] == ["pyproject.toml"]
