"""The settings of a deployment: defaults from one file, the user's own over them, and mistakes in one line."""

import re
from pathlib import Path

import pytest

from faas.cluster.values import load_values
from kdlib.errors import KdlibError

ROOT = Path(__file__).parents[2]


def load(tmp_path, text):
    path = tmp_path / "own.toml"
    path.write_text(text)
    return load_values(path)


def test_the_defaults_are_the_papers():
    values = load_values()
    assert (values.client.cpu, values.client.memory) == (2, 4)
    assert (values.aggregator.cpu, values.aggregator.memory) == (6, 16)
    assert values.ray.cpu == 4 and values.scaling.timeout == 600


def test_rays_version_is_the_locks():
    assert f"ray=={load_values().ray.version}\n" in (ROOT / "constraints.txt").read_text()


def test_every_setting_is_explained_in_the_file():
    known = set(re.findall(r"^#? ?(\w+) = ", (ROOT / "faas/cluster/values.toml").read_text(), re.MULTILINE))
    values = load_values()
    wanted = {name for part in (values, values.scaling, values.client, values.aggregator, values.ray, values.store)
              for name in type(part).model_fields}
    assert wanted - {"scaling", "client", "aggregator", "ray", "store"} <= known


def test_the_users_file_says_only_what_differs(tmp_path):
    values = load(tmp_path, 'user = 501\n[scaling]\nwindow = "1m"\n[client]\nmemory = 8')
    assert (values.user, values.scaling.window, values.scaling.timeout) == (501, "1m", 600)
    assert (values.client.cpu, values.client.memory) == (2, 8)


def test_another_store_replaces_the_whole_one(tmp_path):
    store = load(tmp_path, '[store]\nkind = "s3"\nurl = "s3://bucket/runs"').store
    assert (store.kind, store.driver, store.endpoint) == ("s3", "s3://bucket/runs", None)


@pytest.mark.parametrize(("text", "words"), [
    ("users = 1", ["unknown setting", "users"]),
    ("user = 0", ["user", "greater than or equal to 1"]),
    ('user = "me"', ["user", "integer"]),
    ("callers = []", ["callers", "at least 1"]),
    ('namespace = "Kd"', ["namespace", "'Kd'", "lower-case"]),
    ('pull_policy = "Sometimes"', ["pull_policy", "IfNotPresent"]),
    ("[scaling]\ntimeout = 601", ["scaling.timeout", "600", "601"]),
    ('[scaling]\nwindow = "1s"', ["scaling.window: '1s'", "6s to 3600s"]),
    ('[scaling]\nretention = "2h"', ["scaling.retention: '2h'", "3600s"]),
    ("[scaling]\nwindows = 1", ["scaling.windows"]),
    ("scaling = 3", ["scaling"]),
    ("[client]\nmemory = 0.1", ["client.memory", "0.5"]),
    ("[aggregator]\ninstances = 0", ["aggregator.instances", "1"]),
    ('[ray]\nversion = "new"', ["ray.version", "2.60.0"]),
    ('[store]\nkind = "nfs"', ["store", "volume", "s3"]),
    ('[store]\nkind = "s3"', ["store.s3.url", "required"]),
    ('[store]\nkind = "s3"\nurl = "https://bucket"', ["url", "s3://BUCKET"]),
    ('[store]\nkind = "s3"\nurl = "s3://bucket/{owner}"', ["url", "s3://BUCKET"]),
    ('[store]\nkind = "volume"\nsize = "10"\ndriver = "/tmp/x"', ["driver", "file:///FOLDER"]),
    ('[store]\nkind = "volume"\nsize = "10GB"\ndriver = "file:///x"', ["size", "'10GB'"]),
    ('[store]\nkind = "volume"\nsize = "1Gi"\ndriver = "file:///x"\nnode_folder = "/a"\nstorage_class = "nfs"',
     ["node_folder and storage_class"]),
    ("user 1", ["own.toml", "not a TOML file"]),
])
def test_a_mistake_is_one_line(text, words, tmp_path):
    with pytest.raises(KdlibError) as error:
        load(tmp_path, text)
    assert "\n" not in str(error.value) and all(word in str(error.value) for word in words), error.value


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(KdlibError, match="cannot read the values file"):
        load_values(tmp_path / "absent.toml")
