"""`make test-lowest`: the lowest versions that pyproject.toml allows, a requirement a line; tools as they stand."""

import tomllib
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]

for extra, requirements in {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}.items():
    for requirement in requirements:
        print(requirement if extra == "dev" else requirement.replace(">=", "=="))
