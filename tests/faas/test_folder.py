"""The folder of manifests: whole or not at all, the key kept, nothing of anybody else's touched."""

import stat

import pytest
import yaml
from deployments import IMAGE, SIGNING

from faas.cluster.deployment import Deployment
from faas.cluster.folder import render
from faas.cluster.values import load_values
from kdlib.errors import KdlibError
from kdlib.invoke.tokens import public_of
from kdlib.settings.experiment import make_experiment

SCHEMA = """
spec:
  versions:
  - name: v1
    schema: {openAPIV3Schema: {type: object, properties: {apiVersion: {}, kind: {}, metadata: {}, spec: {%s}}}}
"""


def experiment(**settings):
    return make_experiment("digits", "fedmd", 0.1, profile="smoke", **settings)


def everything(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(autouse=True)
def without_a_schema(monkeypatch):
    """It takes seconds to load, and has its own tests."""
    monkeypatch.delenv("KDLIB_KNATIVE_CRD", raising=False)


def test_what_is_read_is_what_was_written(tmp_path, rendered):
    deployment = render(experiment(), IMAGE, load_values(), tmp_path / "a" / "out", SIGNING)
    assert deployment.manifests == rendered()
    assert (deployment.namespace, deployment.key, deployment.store) == ("kdlib", SIGNING, "file:///tmp/kdlib-store")
    assert deployment.functions == ["aggregator", *(f"client-{index:04}" for index in range(6))]
    assert yaml.safe_load((tmp_path / "a/out/ray/cluster.yaml").read_text())["kind"] == "RayCluster"


def test_nobody_else_may_read_it(tmp_path):
    render(experiment(), IMAGE, load_values(), tmp_path / "out", None)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").iterdir() if path.is_file()} == {0o600}
    assert [path.name for path in (tmp_path / "out").glob("*.key")] == ["signing.key"]


def accepted(deployment):
    (keys,) = {variable["value"] for service in deployment.services.values()
               for variable in service["spec"]["template"]["spec"]["containers"][0]["env"]
               if variable["name"] == "KDLIB_PUBLIC_KEYS"}
    return keys.split(",")


def test_a_key_is_made_once_and_kept(tmp_path):
    made = [render(experiment(), IMAGE, load_values(), tmp_path / name) for name in ("one", "two", "one")]
    assert made[0].key == made[2].key != made[1].key and accepted(made[0]) == [public_of(made[0].key)]
    assert render(experiment(), IMAGE, load_values(), tmp_path / "one", SIGNING).key == SIGNING


@pytest.mark.parametrize("given", [None, SIGNING, f" {SIGNING}\n"])
def test_a_key_is_rotated_by_two_renders(given, tmp_path):
    def rendered(*options):
        return render(experiment(), IMAGE, load_values(), tmp_path / "out", *options)

    with pytest.raises(KdlibError, match=r"--rotate: .* has no earlier key"):
        rendered(given, True)
    before = rendered().key
    turned = rendered(given, True)
    assert turned.key == (given or turned.key).strip() != before
    assert accepted(turned) == [public_of(turned.key), public_of(before)]
    after = rendered()
    assert after.key == turned.key and accepted(after) == [public_of(turned.key)]


def test_rendered_again_it_has_nothing_of_before(tmp_path):
    render(experiment(), IMAGE, load_values(), tmp_path / "out", SIGNING)
    fewer = render(experiment(clients=3), IMAGE, load_values(), tmp_path / "out", SIGNING)
    assert fewer.functions == ["aggregator", "client-0000", "client-0001", "client-0002"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_where_one_manifest_is_wrong_nothing_is_written(tmp_path, monkeypatch):
    (tmp_path / "crd.yaml").write_text(SCHEMA % "properties: {temple: {}}")
    render(experiment(), IMAGE, load_values(), tmp_path / "out", SIGNING)
    before = everything(tmp_path)
    monkeypatch.setenv("KDLIB_KNATIVE_CRD", str(tmp_path / "crd.yaml"))
    for name in ("out", "new"):
        with pytest.raises(KdlibError, match=r"^Service aggregator: spec: .*'template'"):
            render(experiment(clients=3), IMAGE, load_values(), tmp_path / name, None)
    assert everything(tmp_path) == before and not (tmp_path / "new").exists()


def test_killed_between_old_and_new_it_is_found_again(tmp_path):
    render(experiment(), IMAGE, load_values(), tmp_path / "out", SIGNING)
    (tmp_path / "out").rename(tmp_path / ".out.old")
    (tmp_path / ".out.new").mkdir()
    assert render(experiment(), IMAGE, load_values(), tmp_path / "out").key == SIGNING
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


@pytest.mark.parametrize("name", ["notes.txt", "00-namespace.yaml", "sub/notes.txt"])
def test_a_folder_of_somebody_elses_stays_as_it_is(name, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / name).write_text("mine")
    before = everything(tmp_path)
    for key in (None, SIGNING):
        with pytest.raises(KdlibError, match="not what `render` wrote"):
            render(experiment(), IMAGE, load_values(), tmp_path, key)
    assert everything(tmp_path) == before


@pytest.mark.parametrize(("text", "words"), [
    ("a: [", "not YAML"), ("timeoutSeconds: 9999", "no manifest"), ("- 1", "no manifest"), ("\x00", "not YAML"),
    ("!!python/object/apply:os.system ['false']", "not YAML"),
])
def test_a_manifest_that_was_spoilt_by_hand(text, words, tmp_path):
    render(experiment(), IMAGE, load_values(), tmp_path / "out", SIGNING)
    (tmp_path / "out" / "30-client-0000.yaml").write_text(text)
    with pytest.raises(KdlibError, match=words) as error:
        Deployment(tmp_path / "out")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "private-short", public_of(SIGNING), b"\xff", None])
def test_a_key_that_was_spoilt_by_hand(text, tmp_path):
    path = render(experiment(), IMAGE, load_values(), tmp_path / "out").folder / "signing.key"
    path.unlink()
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(KdlibError, match=r"signing\.key is no signing key; allowed: as `render` wrote it"):
        Deployment(tmp_path / "out")


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(KdlibError, match="has no manifests"):
        Deployment(tmp_path / "nowhere")
