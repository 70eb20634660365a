"""What outside code is known by, and who may import it: keys, other processes, what an Experiment merely names."""

import dataclasses
import functools
import json
import linecache
import shutil
import sys

import pytest
from guests import NAMED, PACKAGE, experiment, naming, python, rows_folder

import kdlib
from faas.cluster.manifests import manifests
from faas.cluster.values import load_values
from faas.local import launch
from functions import SIGNING, Function, deployed
from kdlib import registry
from kdlib.errors import KdlibError
from kdlib.invoke.tokens import public_of
from kdlib.registry import NETWORKS, STRATEGIES
from kdlib.settings.experiment import from_json
from kdlib.source import source

IMAGE = "dev.local/kdlib:latest"
KEYS = """
import json, sys
import kdlib
def key(task, strategy, *architectures):
    made = kdlib.make_experiment(task, strategy, 0.5, profile="smoke", architectures=architectures)
    return made.key({"private.x": "ab"})
print(json.dumps({
    "kdlib's own": key("digits", "fedavg", "cnn2-128-256"),
    "strategy": key("digits", "dsfl", "cnn2-128-256"),
    "strategy by reference": key("digits", "guestlib.loose:PLAIN", "cnn2-128-256"),
    "network": key("digits", "fedavg", "guestnet"),
    "network by reference": key("digits", "fedavg", "guestlib.loose:flat"),
    "network with sizes": key(sys.argv[1], "fedavg", "rowsnet-32"),
}))
"""


@pytest.mark.parametrize("changed", ["dsfl", "guestnet"])
def test_the_key_knows_the_source(changed, site, tmp_path):
    shutil.copytree(site, tmp_path / "copy")
    file = tmp_path / "copy" / PACKAGE / f"{changed}.py"
    text = file.read_text()

    def keys():
        shown = python(KEYS, rows_folder(tmp_path), path=[tmp_path / "copy"], KDLIB_DATA=str(tmp_path))
        assert shown.returncode == 0, shown.stderr
        return json.loads(shown.stdout)

    before = keys()
    file.write_text(text + "\n# changed\n")
    after = keys()
    assert {name for name in before if after[name] == before[name]} == {"kdlib's own"}
    file.write_text(text)
    assert keys() == before and len(set(before.values())) == len(before)


def of(units):
    def build(task, classes, width, generator):
        raise NotImplementedError(units)

    return build


def built(task, classes, width, generator, units=3):
    raise NotImplementedError(units)


def test_what_a_function_was_given_beforehand_is_of_its_source():
    assert source([of(32)]) == source([of(32)]) != source([of(64)])
    assert source([functools.partial(built, units=32)]) != source([functools.partial(built, units=64)])
    assert source([functools.partial(built, units=32)]) != source([built])
    assert source([functools.partial(functools.partial(built, 1), units=2)]) == source([functools.partial(
        built, 1, units=2)])


def test_a_cell_of_a_notebook_is_known_by_its_text(monkeypatch):
    def cell(text, number):
        name, space = f"<cell {number}>", {"__name__": "nowhere"}
        lines = [line + "\n" for line in text.splitlines()]
        monkeypatch.setitem(linecache.cache, name, (len(text), None, lines, name))  # as IPython does
        exec(compile(text, name, "exec"), space)
        return space

    one, two = (cell(f"def build():\n    return {number}", number) for number in (1, 2))
    assert source([one["build"]]) != source([two["build"]])
    around = cell("def of(units):\n    def build():\n        return units\n    return build", 3)["of"]
    assert source([around(1)]) == source([around(1)]) != source([around(2)])
    nowhere = {"__name__": "nowhere"}
    exec("def build(): pass", nowhere)
    with pytest.raises(KdlibError, match=r"^the source of .* is not to be had.*allowed: a function or class in a file"):
        source([nowhere["build"]])


def test_kdlibs_own_code_counts_in_nobodys_source():
    from kdlib.learning.networks.cnn import cnn
    from kdlib.learning.networks.lstm import lstm

    assert source([cnn]) == source([lstm]) != source([functools.partial(cnn, 1)])


PLUGIN = """
import functools
import kdlib
import {helper}
from guestlib.rowsnet import rowsnet
kdlib.register_network("{name}", functools.partial(rowsnet, units={helper}.UNITS), items="other")
"""


def test_a_file_is_known_with_what_it_imports_beside_it(files):
    helper = files("guest_helper", "UNITS = 8\n")
    plugin = files("guest_plugin", PLUGIN.format(helper="guest_helper", name="beside"))
    registry.load(str(plugin))
    before, module = NETWORKS.find("beside").source, sys.modules["guest_plugin"]
    assert before == source([NETWORKS.find("beside").value.build], [module])
    helper.write_text("UNITS = 8  # changed\n")
    assert before != source([NETWORKS.find("beside").value.build], [module])


@pytest.mark.parametrize(("text", "words"), [
    ("raise RuntimeError('twice\\nunwell')", "cannot be imported (RuntimeError: twice unwell); allowed: a FILE.py"),
    ("import kdlib\nkdlib.register_network('cnn2', print)", "kdlib has a network cnn2 of its own"),
    ("import kdlib\nkdlib.register_network('No Name', print)", "'No Name' is no name for a network"),
    ("import kdlib\nkdlib.register_network('number', 3)", "number is no network, but "),
    ("import kdlib\nkdlib.register_strategy(kdlib.Aligned)", "is no strategy; allowed: a kdlib.Strategy"),
])
def test_a_plugin_that_cannot_be_is_one_line(text, words, files):
    with pytest.raises(KdlibError) as error:
        registry.load(str(files("guest_unwell", text)))
    assert words in str(error.value) and "\n" not in str(error.value)
    assert "guest_unwell" not in sys.modules


@pytest.mark.parametrize(("name", "words"), [
    (f"{PACKAGE}.loose:dsfl", "is no strategy, but <module"), (f"{PACKAGE}.dsfl:DSFL", "allowed: a kdlib.Strategy"),
    (f"{PACKAGE}.loose:GONE", f"{PACKAGE}.loose has no GONE; allowed: a strategy of that module"),
    (f"{PACKAGE}.gone:PLAIN", f"the plugin {PACKAGE}.gone cannot be imported (ModuleNotFoundError"),
    ("dsf", "unknown strategy 'dsf' (did you mean dsfl?); allowed: alone, fedavg, feddf, fedmd, dsfl"),
])
def test_what_is_no_strategy_is_one_line(name, words):
    with pytest.raises(KdlibError) as error:
        experiment("digits", name)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("change", "words"), [
    ({"selects": "train"}, "it selects, and its settings are no Selecting"),
    ({"selects": "call"}, "it selects for call, which is no step"),
    ({"profiles": {"smoke": {"temprature": 1}}}, "temprature of its profile smoke is no setting"),
    ({"scratch": ("consensus",)}, "scratch consensus is not passing"),
    ({"steps": [kdlib.of_client(lambda *_: {}, lambda e, n: kdlib.Work())]}, "<lambda> is no name for a step"),
])
def test_a_declaration_that_cannot_be_is_one_line(change, words):
    with pytest.raises(KdlibError, match=f"^strategy dsfl: {words}; allowed steps: "):
        dataclasses.replace(STRATEGIES.find("dsfl").value, **change)


def test_an_image_is_told_the_modules_that_it_has_to_have(files, monkeypatch, tmp_path):
    monkeypatch.setattr(registry, "_allowed", {})
    made = experiment("digits")
    place = launch.Place(tmp_path, None, made.client_names, SIGNING, None, False)
    (function,) = launch.functions(made.client_names, made, load_values(), 0)[:1]

    def told():
        command = launch.container(function, place, IMAGE)
        (service,) = (each for name, each in manifests(made, IMAGE, load_values(), public_of(SIGNING)).items()
                      if "client-0000" in name)
        (container,) = service["spec"]["template"]["spec"]["containers"]
        return command.environment.get("KDLIB_PLUGINS"), {each["name"]: each.get("value") for each in container["env"]}

    assert "KDLIB_PLUGINS" not in told()[1] and told()[0] is None
    registry.load(f"{PACKAGE}.loose")
    registry.load(str(files("guest_lone", "")))  # a file of this machine, which no image has
    assert told()[0] == told()[1]["KDLIB_PLUGINS"] == f"{PACKAGE}.loose"
    assert launch.process(function, place).environment["KDLIB_PLUGINS"].split(":") == [
        f"{PACKAGE}.loose", str(tmp_path / "guest_lone.py")]


def test_an_installed_package_that_cannot_be_imported_hides_no_others(site, tmp_path):
    shutil.copytree(site, tmp_path / "copy")
    (tmp_path / "copy" / PACKAGE / "dsfl.py").write_text("import a_library_that_is_gone\n")
    code = "from kdlib.cli.main import main; import sys; sys.argv = ['kdlib', *sys.argv[1:]]; main()"
    shown = python(code, "strategies", path=[tmp_path / "copy"])
    assert shown.returncode == 0 and shown.stdout.count("\n") == 4
    assert "the strategy dsfl of the package guestlib cannot be imported (ModuleNotFoundError" in shown.stderr
    asked = python(code, "experiment", "--strategy", "dsfl", path=[tmp_path / "copy"])
    assert asked.returncode == 2 and asked.stderr.startswith("kdlib: the strategy dsfl of the package guestlib")


@pytest.mark.parametrize("what", NAMED)
def test_an_experiments_text_makes_nothing_be_imported(what, bomb):
    with pytest.raises(KdlibError, match=r"guest_bomb:\w+ is not registered here; allowed: `--plugin guest_bomb`"):
        from_json(naming(what))
    assert not bomb.exists() and "guest_bomb" not in sys.modules


@pytest.mark.parametrize("what", NAMED)
def test_neither_does_a_function(what, bomb, site, tmp_path):
    store = deployed(f"file://{tmp_path}/store/{{owner}}", experiment("digits"))
    store.put_json("public/experiment", json.loads(naming(what)))
    with Function("client-0000", f"file://{tmp_path}/store/{{owner}}", tmp_path / "log",
                  PYTHONPATH=f"{site}:{tmp_path}") as function:
        answer = function.step("train", 1)
    assert answer.status_code == 422 and "is not registered here" in answer.json()["error"]
    assert not bomb.exists()


def test_a_function_refuses_a_run_that_was_begun_with_another_source(site, tmp_path):
    shutil.copytree(site, tmp_path / "copy")
    with (tmp_path / "copy" / PACKAGE / "guestnet.py").open("a") as file:
        file.write("# another version\n")
    url = f"file://{tmp_path}/store/{{owner}}"
    deployed(url, experiment("digits"))
    for place, status in ((tmp_path / "copy", 422), (site, 200)):
        with Function("client-0001", url, tmp_path / "log", PYTHONPATH=str(place)) as function:
            answer = function.step("train", 1)
            assert answer.status_code == status, answer.text
            if status == 422:
                assert answer.json()["error"] == ("network guestnet is another version here than where the "
                                                   "run was begun; "
                                                   "allowed: "
                                                  "the same source, in a process started with it")


def test_what_is_installed_is_found_and_listed():
    assert STRATEGIES.find("dsfl") is STRATEGIES.find("dsfl")
    assert "dsfl" in STRATEGIES.names() and {"guestnet", "rowsnet"} <= set(NETWORKS.names())
    assert f"{PACKAGE}.loose:PLAIN" not in STRATEGIES.names()


def test_what_is_installed_later_is_found_too(tmp_path, monkeypatch):
    monkeypatch.setattr(NETWORKS, "_parts", {})
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    with pytest.raises(KdlibError, match="unknown network 'later'"):
        NETWORKS.find("later")
    meta = tmp_path / "later-1.0.dist-info"
    meta.mkdir()
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: later\nVersion: 1.0\n")
    (meta / "entry_points.txt").write_text(f"[kdlib.models]\nlater = {PACKAGE}.loose:flat\n")
    assert NETWORKS.find("later").value is sys.modules[f"{PACKAGE}.loose"].flat


def test_two_packages_with_one_name_are_told_apart_by_the_user(tmp_path, monkeypatch):
    meta = tmp_path / "another-1.0.dist-info"
    meta.mkdir()
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: another\nVersion: 1.0\n")
    (meta / "entry_points.txt").write_text(
        f"[kdlib.strategies]\ndsfl = {PACKAGE}.loose:PLAIN\n[kdlib.models]\nguestnet = {PACKAGE}.guestnet:guestnet\n")
    monkeypatch.setattr(STRATEGIES, "_parts", {})
    monkeypatch.setattr(NETWORKS, "_parts", {})
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    with pytest.raises(KdlibError, match=r"more than one strategy dsfl: .*allowed: one of them, as package"):
        STRATEGIES.find("dsfl")
    assert NETWORKS.find("guestnet").source, "named twice, but the same"
