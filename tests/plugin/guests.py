"""What the tests of the outside package share: its experiments, where it is installed, and processes that know it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

import kdlib

HERE = Path(__file__).parent
PACKAGE = "guestlib"

# Of seconds by any invoker, an outside network beside one of kdlib's in each.
COMMON = {"profile": "smoke", "clients": 4, "rounds": 2, "samples": 60, "test_items": 100}
IMAGES = COMMON | {"alpha": 0.5, "architectures": ("cnn2-128-256", "guestnet"), "public_items": 200,
                   "alignment_items": 64}
ROWS = COMMON | {"alpha": 1.0, "architectures": ("rowsnet-32", "rowsnet-64"), "alignment_items": 100, "width": 1.0,
                 "learning_rate": 0.01}
CLASSES, NUMBERS = 3, 6

ROWS_TASK = f"""
name = "guest-rows"
items = "other"
shape = [{NUMBERS}]
[private]
name = "guest-rows"
classes = {list(range(CLASSES))}
[public]
name = "guest-rows-public"
classes = []
"""


def install(source, target):
    """Build the package in the folder `source` and install it in the new folder `target`, without any network."""
    copy = target.with_name(f"{target.name}-source")
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("test_*", "conftest.py", "__pycache__"))
    installed = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-index",
         "--no-build-isolation", "--target", target, copy], capture_output=True, text=True)
    assert installed.returncode == 0, installed.stderr


def arrays():
    """x_train and so on of rows whose classes lie apart, float32 (N, 6), and unlabelled ones."""
    rng = np.random.default_rng(0)
    centres = 2 * rng.normal(size=(CLASSES, NUMBERS))

    def some(items):
        y = rng.integers(0, CLASSES, items)
        return (centres[y] + rng.normal(size=(items, NUMBERS))).astype(np.float32), y

    (x_train, y_train), (x_test, y_test), (public, _) = some(500), some(100), some(200)
    return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}, public


def experiment(task, strategy="dsfl", **changed):
    """The Experiment on `digits`, or on `rows`, a task of arrays in this process."""
    if task == "digits":
        return kdlib.make_experiment("digits", strategy, **IMAGES | changed)
    own, public = arrays()
    rows = kdlib.task("guest-rows", (own["x_train"], own["y_train"]), public, (own["x_test"], own["y_test"]))
    return kdlib.make_experiment(rows, strategy, **ROWS | changed)


def rows_folder(folder):
    """The same rows as files for the command line, in the folder, which KDLIB_DATA is to name; the task's file."""
    own, public = arrays()
    np.savez(folder / "guest-rows.npz", **own)
    np.savez(folder / "guest-rows-public.npz", x_train=public)
    (folder / "rows.toml").write_text(ROWS_TASK)
    return folder / "rows.toml"


def options(task, **changed):
    """What `kdlib run` takes to make the same experiment; task: the name or file."""
    settings = dict((IMAGES if task == "digits" else ROWS) | changed)
    words = ["--task", task, "--profile", settings.pop("profile"), "--alpha", settings.pop("alpha")]
    for name, value in settings.items():
        words += ["--set", f"{name}={json.dumps(value)}"]
    return words


def python(code, *arguments, path=(), **environment):
    """A fresh Python that runs `code`; path: folders that it finds modules in, besides kdlib's own."""
    own = {name: value for name, value in os.environ.items() if name != "KDLIB_PLUGINS"}
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True,
                          env=own | {"PYTHONPATH": os.pathsep.join(map(str, path))} | environment, timeout=300)


def one_line(finished, *words):
    """The command ended with status 2 and one line on stderr that has all the words."""
    lines = finished.stderr.strip().splitlines()
    assert finished.returncode == 2 and len(lines) == 1, finished.stderr
    assert all(word in lines[0] for word in words), lines[0]


NAMED = {"strategy": ("strategy", "guest_bomb:STRATEGY"), "network": ("architectures", ["guest_bomb:net"])}


def naming(what):
    """The JSON of an Experiment that names a part of the module guest_bomb, which nobody has imported."""
    field, value = NAMED[what]
    return json.dumps(json.loads(experiment("digits").model_dump_json()) | {field: value})
