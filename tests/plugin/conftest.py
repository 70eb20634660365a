"""The package guestlib is installed where this process, and all that it starts, find it; afterwards it is gone."""

import os
import shutil
import sys
import tempfile

import pytest
from filelock import FileLock
from guests import HERE, PACKAGE, install

from kdlib import registry
from kdlib.registry import NETWORKS, STRATEGIES


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The folder that guestlib is installed in, by whichever worker asks first."""
    place = tmp_path_factory.getbasetemp()
    place = place.parent if "PYTEST_XDIST_WORKER" in os.environ else place  # which all workers share
    with FileLock(place / f"{PACKAGE}.lock"):
        if not (place / PACKAGE).exists():
            install(HERE, place / f"{PACKAGE}-new")
            (place / f"{PACKAGE}-new").rename(place / PACKAGE)
    return place / PACKAGE


@pytest.fixture(scope="module", autouse=True)
def guest(site):
    """It can be found; the registries forget it at the end, as other tests count what there is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path, str(site)])
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(site)])))
        for parts in (STRATEGIES, NETWORKS):
            patch.setattr(parts, "_parts", {})
        patch.setattr(registry, "_allowed", {})
        yield site
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def ray_folder():
    """Where Ray keeps its files, while the tests last: below /tmp, as a socket's path has 107 bytes at most."""
    folder = tempfile.mkdtemp(prefix="kdlib-", dir="/tmp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        yield folder
    shutil.rmtree(folder)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Write a Python file; afterwards nobody has imported it."""
    monkeypatch.syspath_prepend(tmp_path)
    written = []

    def write(name, text):
        (tmp_path / f"{name}.py").write_text(text)
        written.append(name)
        return tmp_path / f"{name}.py"

    yield write
    for name in written:
        sys.modules.pop(name, None)
        registry._allowed.pop(name, None)


@pytest.fixture
def bomb(files, tmp_path):
    """The file that a module, which Python would find, writes when it is imported."""
    left = tmp_path / "guest_bomb.was.here"
    files("guest_bomb", f"from pathlib import Path\nPath({str(left)!r}).touch()\nSTRATEGY = net = print\n")
    return left
