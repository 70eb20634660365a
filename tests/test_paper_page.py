"""docs/paper.md: every PAPER in a docstring names one of its headings, and its values are the package's."""

import re
from pathlib import Path

import pytest

from kdlib.registry import STRATEGIES
from kdlib.reports import cost
from kdlib.settings.architectures import TEXT_ZOO, ZOO
from kdlib.settings.experiment import make_experiment
from kdlib.settings.task import load_task
from kdlib.settings.vocabulary import CHARACTERS, OUTPUTS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/paper.md").read_text()
HEADINGS = {heading.lower() for heading in re.findall(r"^##+ (.+)$", PAGE, re.MULTILINE)}
# What follows after `;` are other sources.
REFERENCES = [(path.relative_to(ROOT).as_posix(), " ".join(named.split()))
              for folder in ("kdlib", "faas", "tests/fidelity") for path in sorted((ROOT / folder).rglob("*.py"))
              for named in re.findall(r"\(PAPER: ([^;)]+)[;)]", path.read_text())]


def sections(reference):
    """The headings that it names: one, or several with commas between them."""
    return {reference.lower()} if reference.lower() in HEADINGS else set(reference.lower().split(", "))


def rows(heading):
    """The cells of the tables below a heading, a list a row."""
    body = re.split(r"^##+ ", PAGE.split(f"## {heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in body.splitlines() if line.startswith("|")]


@pytest.mark.parametrize(("path", "reference"), REFERENCES)
def test_a_docstring_points_at_a_heading(path, reference):
    assert sections(reference) <= HEADINGS, f"{path} names what docs/paper.md lacks; it has {sorted(HEADINGS)}"


def test_every_reference_is_looked_at():
    named = {path for path, _ in REFERENCES}
    assert {"kdlib/strategies/fedmd.py", "kdlib/strategies/feddf.py", "kdlib/data/partition.py"} <= named
    mentions = sum(path.read_text().count("PAPER: ") for folder in ("kdlib", "faas") for path in
                   (ROOT / folder).rglob("*.py"))
    assert mentions == sum(path.startswith(("kdlib", "faas")) for path, _ in REFERENCES)


def test_the_values_for_open_numbers_are_the_packages():
    found = [row for row in rows("Open numbers") if row[1].startswith("`")]
    assert len(found) == 9
    for what, setting, strategy, value in found:
        assert getattr(make_experiment("mnist", strategy, profile="paper"), setting.strip("`")) == float(value), what


def test_the_models_and_the_vocabulary_are_the_packages():
    models = [row[1:] for row in rows("Models") if row[0].isdigit()]
    assert [images.strip("`") for images, _ in models] == list(ZOO)
    assert [texts.strip("`") for _, texts in models if texts] == list(TEXT_ZOO)
    assert (len(CHARACTERS), OUTPUTS) == (80, 82) and "80 characters, numbered 2 to 81" in PAGE
    six = ", ".join(map(str, load_task("cifar", "fedmd").private.classes[:-1]))
    assert re.search(rf"labels\s+{six}\s+and 82\b", PAGE)


def test_the_switches_of_faults_are_settings():
    switches = [row[2].strip("`").split("=") for row in rows("The artefact's faults") if "=" in row[2]]
    assert len(switches) == 4
    for name, value in switches:
        declared = [STRATEGIES.find(each).value for each in STRATEGIES.names()]
        found = next(each for each in declared if name in each.settings.model_fields)
        made = make_experiment("mnist", found.name, **{name: value})
        assert made.setting(name) == value != found.settings.model_fields[name].default


def test_the_limits_are_those_that_kdlib_prices():
    found = {row[0]: (int(row[1]), int(row[2])) for row in rows("Cost") if row[0] in cost.PAPER and row[1].isdigit()}
    assert found == {kind: tuple(limits) for kind, limits in cost.PAPER.items()}


def test_links_lead_somewhere():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", PAGE) if not link.startswith("http")]
    assert links and [link for link in links if not (ROOT / "docs" / link).exists()] == []
