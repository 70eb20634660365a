"""A store in a folder: both ends, which may be different users, can write to it, or `deploy` says why not."""

import errno
import os
import subprocess

import pytest
from deployments import IMAGE, SIGNING

from faas.cluster import kubectl
from faas.cluster.folder import render
from faas.cluster.layout import expect_user, lay_out
from faas.cluster.values import load_values
from kdlib.errors import KdlibError
from kdlib.settings.experiment import make_experiment

SOMEBODY = 4321  # no user of any machine
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root is another user than the functions'")


@pytest.fixture
def deployment(tmp_path):
    """Builds one of three clients, whose functions run as `user`."""

    def build(user, store=None):
        store = store or f'kind = "volume"\nsize = "1Gi"\nnode_folder = "/store"\ndriver = "file://{tmp_path}/store"'
        (tmp_path / "values.toml").write_text(f"user = {user}\n[store]\n{store}\n")
        experiment = make_experiment("digits", "feddf", 1, profile="smoke", clients=3, clients_per_round=3)
        return render(experiment, IMAGE, load_values(tmp_path / "values.toml"), tmp_path / "manifests", SIGNING)

    return build


def test_every_owners_folder_is_there_and_the_users_own(deployment, tmp_path):
    lay_out(deployment(os.getuid() or SOMEBODY))
    there = {str(path.relative_to(tmp_path / "store")) for path in (tmp_path / "store").rglob("*")}
    clients = {f"client-{index:04}" for index in range(3)}
    assert there == {"public", "aggregator", "private", *clients, *(f"private/{name}" for name in clients)}
    assert {path.stat().st_uid for path in (tmp_path / "store").rglob("*")} == {os.getuid()}


def as_user(user, folder, script):
    """What a function's shell says that has `folder` alone, as where it is mounted."""
    return subprocess.run(["/bin/sh", "-ec", script], cwd=folder, user=user, group=user, extra_groups=[],
                          capture_output=True, text=True)


@as_root
@pytest.mark.parametrize("earlier", [False, True])
def test_where_root_drives_the_functions_user_can_read_and_write(earlier, deployment, tmp_path):
    own = tmp_path / "store" / "client-0000"
    if earlier:  # a run that failed before, by `deploy` without this
        (own / "key").mkdir(parents=True)
    lay_out(deployment(SOMEBODY))
    (own / "key" / "001").mkdir(parents=True)  # the driving process makes a run's folders
    (own / "key" / "given").write_text("given")
    done = as_user(SOMEBODY, own, "cat key/given; mkdir key/002; echo made > key/002/made; echo made > key/001/made")
    assert (done.returncode, done.stdout) == (0, "given"), done.stderr
    assert (own / "key/002/made").read_text() == "made\n"
    other = as_user(SOMEBODY + 1, own, "cat key/given")
    assert other.returncode != 0 and "Permission denied" in other.stderr


@as_root
def test_without_it_the_functions_user_could_not(tmp_path):
    done = as_user(SOMEBODY, tmp_path, "echo made > made")
    assert done.returncode != 0 and "Permission denied" in done.stderr


@as_root
def test_a_file_system_without_access_control_lists_is_one_line(deployment, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "setxattr", refuse)
    with pytest.raises(KdlibError, match=r"without access control lists \(Operation not supported\), .* allowed: an"):
        lay_out(deployment(SOMEBODY))


def test_another_user_is_refused_before_the_cluster_is_touched(deployment, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 501)
    wanted = deployment(1000)
    monkeypatch.setenv("PATH", str(tmp_path))  # no kubectl there
    with pytest.raises(KdlibError, match=r"would run as user 1000, who may not write to .* as you are user 501; "
                                         r"allowed: `user = 501` in the file for --values"):
        kubectl.deploy(wanted)
    assert not (tmp_path / "store").exists()
    expect_user(deployment(501))


def test_a_store_elsewhere_has_no_user(deployment, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 501)
    wanted = deployment(1000, 'kind = "s3"\nurl = "s3://bucket/runs"')
    expect_user(wanted)
    lay_out(wanted)
    assert not (tmp_path / "store").exists()
