"""CONTRIBUTING's table is true: its folders, files and tests are there, and its example runs as it stands."""

import re
from pathlib import Path

import forked

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.splitlines()
        if re.match(r"\| (add|use|change) ", line)]
NEWCOMERS = {"add a strategy", "add a network", "use CUDA", "change the Dirichlet law", "add prices", "add a figure",
             "add a step to FedMD", "change the HTTP time-out", "add a Hugging Face data set", "add a store"}


def paths(cell):
    return [word for word in re.findall(r"`([^`]+)`", cell) if "/" in word or word.endswith((".py", ".toml"))]


def test_every_change_of_a_newcomer_leads_to_one_folder():
    folders = {row[0]: paths(row[1]) for row in ROWS}
    assert set(folders) >= NEWCOMERS
    assert all(len(found) == 1 and (ROOT / found[0]).is_dir() for found in folders.values()), folders


def test_what_the_table_names_is_there():
    for _, folder, what, test in ROWS:
        (place,) = paths(folder)
        for path in paths(what):
            assert "NAME" in path or (ROOT / path).exists() or (ROOT / place / path).is_file(), path
        for path in paths(test):
            assert (ROOT / path).exists(), path


def test_the_example_of_a_file_runs(tmp_path):
    code, = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    command, = re.findall(r"^kdlib (--plugin .*)$", TEXT, re.MULTILINE)
    (tmp_path / "FILE.py").write_text(code)
    words = [word.strip("'") for word in re.findall(r"'[^']*'|\S+", command)]
    done = forked.run("kdlib", *words, "--profile", "smoke", "--set", "rounds=1", cwd=tmp_path)
    assert done.returncode == 0 and '"mlp"' in done.stdout, done.stderr


def test_the_words_are_those_of_the_code():
    entry_points = re.findall(r'entry-points\."([\w.]+)"', TEXT)
    from kdlib.registry import NETWORKS, STRATEGIES

    assert entry_points == [STRATEGIES.group, NETWORKS.group]
