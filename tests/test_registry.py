"""Strategies and networks by name: found where they are allowed, refused in one line where not, and never imported."""

import functools
import importlib.metadata
import os
import sys

import pytest

from kdlib import registry
from kdlib.errors import KdlibError
from kdlib.registry import NETWORKS, PLUGINS, STRATEGIES
from kdlib.settings.experiment import from_json, make_experiment

NETWORK = """
import torch
from kdlib.registry import NETWORKS
from kdlib.settings.architectures import Network

def flat(task, classes, width, generator, *units):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(28 * 28, classes))

FLAT = Network(flat, "image")
"""
REGISTERED = NETWORK + """
NETWORKS.register("flat", FLAT)
"""
STRATEGY = """
from kdlib.invoke.strategy import Strategy, Work, of_client, personal_model
from kdlib.registry import STRATEGIES
from kdlib.strategies import alone

class Mine(alone.Alone):
    \"\"\"Alone, but mine.\"\"\"

    strength: float = 0.5

def train(experiment, store, round_, client):
    return alone.train(experiment, store, round_, client)

MINE = Strategy(name="mine", title="Mine", settings=Mine, workflow=alone.workflow, personal=True,
                steps=(of_client(train, lambda e, n: Work(trained=n.client)), alone.STRATEGY.step("evaluate")),
                model=personal_model)
STRATEGIES.register("mine", MINE)
"""
HASHES = {"private.x": "ab"}


def refused(error):
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("parts", "names"), [
    (STRATEGIES, ["alone", "fedavg", "feddf", "fedmd"]),
    (NETWORKS, ["cnn2", "cnn3", "cnn4", "lstm1", "lstm2", "resnet8", "resnet20", "transformer2"]),
], ids=["strategies", "networks"])
def test_kdlibs_own_are_there_and_no_source_of_theirs_reaches_a_key(parts, names, plugin):
    assert parts.names() == names
    assert [parts.find(name).source for name in names] == [None] * len(names)


@pytest.mark.parametrize("parts", [STRATEGIES, NETWORKS], ids=["strategies", "networks"])
def test_an_unknown_name_is_refused_with_all_that_there_are(parts, plugin):
    with pytest.raises(KdlibError, match=f"unknown {parts.what} 'nobody'; allowed: {', '.join(parts.names())}; or one "
                                         "of your own as package.module:NAME, or registered by a file: `--plugin "
                                         "FILE.py`, KDLIB_PLUGINS=FILE.py") as error:
        parts.find("nobody")
    refused(error)
    with pytest.raises(KdlibError, match=rf"unknown {parts.what} '.{{80}}'; allowed") as error:
        parts.find("n" * 10_000)


@pytest.mark.parametrize("name", ["Mine", "", "mine!", "-mine", "m" * 65, "a.b:C", "../mine"])
def test_what_is_no_name_cannot_be_registered(name, plugin):
    with pytest.raises(KdlibError, match="is no name for a network; allowed: up to 64 lower-case letters") as error:
        NETWORKS.register(name, print)
    refused(error)


def test_kdlibs_own_names_are_taken(plugin):
    with pytest.raises(KdlibError, match="kdlib has a strategy fedmd of its own; allowed: another name"):
        STRATEGIES.register("fedmd", STRATEGIES.find("feddf").value)
    assert STRATEGIES.find("fedmd").value.name == "fedmd"


@pytest.mark.parametrize("value", [5, "alone", registry.T, make_experiment],
                         ids=["number", "name", "object", "function"])
def test_what_is_no_strategy_cannot_be_registered(value, plugin):
    with pytest.raises(KdlibError, match=r"mine is no strategy, but .*; allowed: a kdlib\.Strategy") as error:
        STRATEGIES.register("mine", value)
    refused(error)
    assert "mine" not in STRATEGIES.names()


def test_a_module_that_is_allowed_may_be_named_and_no_other(plugin):
    plugin("nets", NETWORK)
    with pytest.raises(KdlibError, match="the network nets:FLAT is not registered here; allowed: `--plugin nets`, "
                                         r"KDLIB_PLUGINS=nets, or a package with an entry point in kdlib\.models"):
        NETWORKS.find("nets:FLAT")
    registry.allow("nets:FLAT")
    assert NETWORKS.find("nets:FLAT").value.items == "image"
    with pytest.raises(KdlibError, match="nets has no ROUND; allowed: a network of that module"):
        NETWORKS.find("nets:ROUND")
    with pytest.raises(KdlibError, match="the network os:system is not registered here"):
        NETWORKS.find("os:system")  # imported long ago, but nobody said that it holds networks


@pytest.mark.parametrize("name", ["nets", "fedmd", "nets.py", "nets/FLAT", "nets:FLAT:x", "import os", ""])
def test_only_a_reference_makes_allow_import_anything(name, plugin):
    plugin("nets", NETWORK)
    registry.allow(name)
    assert "nets" not in sys.modules and registry.plugins() == []


SNEAKY = """
from pathlib import Path
Path("ran").touch()
""" + NETWORK.replace("FLAT =", "STRATEGY = FLAT =")


@pytest.mark.parametrize("changes", [{"strategy": "sneaky:STRATEGY"}, {"architectures": ("sneaky:FLAT",)},
                                     {"architectures": ("cnn2-8-8", "sneaky:FLAT")}])
def test_an_experiment_from_outside_imports_nothing_although_it_could(changes, plugin, tmp_path):
    plugin("sneaky", SNEAKY)
    sys.path.insert(0, str(tmp_path))
    made = make_experiment("digits", "feddf", profile="smoke").model_copy(update=changes)
    text = made.model_dump_json()
    with pytest.raises(KdlibError, match=r"sneaky:[A-Z]+ is not registered here; allowed: `--plugin sneaky`") as error:
        from_json(text)
    refused(error)
    assert "sneaky" not in sys.modules and not (tmp_path / "ran").exists()
    import sneaky  # so it could have been

    assert sneaky and (tmp_path / "ran").exists()
    with pytest.raises(KdlibError, match="is not registered here"):
        from_json(text)  # to be imported by somebody is not to be allowed


def test_what_a_user_names_is_imported_and_then_read_from_json(plugin):
    plugin("mine", STRATEGY)
    plugin("nets", NETWORK)
    made = make_experiment("digits", "mine:MINE", profile="smoke", architectures=["nets:FLAT", "cnn2-8-8"], strength=2)
    assert made.strategy == "mine:MINE" and made.strength == 2
    assert from_json(made.model_dump_json()) == made
    assert set(made.sources) == {"strategy mine:MINE", "network nets:FLAT"}
    assert sorted(registry.plugins()) == sorted(str(plugin("mine", STRATEGY).with_stem(name))
                                                for name in ("mine", "nets"))


def test_a_plugin_of_the_environment_is_loaded_when_something_is_looked_up(plugin, monkeypatch):
    monkeypatch.setenv(PLUGINS, os.pathsep.join([str(plugin("mine", STRATEGY)), str(plugin("nets", REGISTERED))]))
    assert STRATEGIES.names()[-1] == "mine" and NETWORKS.names()[-1] == "flat"
    made = make_experiment("digits", "mine", profile="smoke", architectures=["flat"])
    assert from_json(made.model_dump_json()) == made and made.strength == 0.5


def test_a_plugin_may_be_a_module_too(plugin, monkeypatch):
    plugin("package/nets", REGISTERED)
    monkeypatch.setenv(PLUGINS, "package.nets")
    assert NETWORKS.find("flat").value is NETWORKS.find("package.nets:FLAT").value
    assert registry.plugins() == ["package.nets"]


@pytest.mark.parametrize(("plugins", "says"), [
    ("absent.py", r"there is no plugin .*absent\.py; allowed: the path of a Python file"),
    ("absent", r"the plugin absent cannot be imported \(ModuleNotFoundError: .*\); allowed: a FILE.py, or a module"),
    ("broken.py", r"the plugin broken.py cannot be imported \(ZeroDivisionError: division by zero\)"),
    ("wrong.py", "kdlib has a network cnn2 of its own; allowed: another name"),
    ("json.py", "has the name of the module json; allowed: another file name"),
])
def test_a_plugin_that_cannot_be_loaded_is_refused_each_time(plugins, says, plugin, monkeypatch):
    plugin("broken", "1 / 0")
    plugin("wrong", REGISTERED.replace('"flat"', '"cnn2"'))
    plugin("json", REGISTERED)
    monkeypatch.setenv(PLUGINS, plugins)
    for _ in range(2):
        with pytest.raises(KdlibError, match=says) as error:
            NETWORKS.names()
        refused(error)
    assert "broken" not in sys.modules and "wrong" not in sys.modules


def test_an_installed_packages_entry_point_is_found_by_name(plugin, monkeypatch, tmp_path):
    entry = importlib.metadata.EntryPoint("flat", "nets:FLAT", "kdlib.models")
    monkeypatch.setattr(importlib.metadata, "entry_points",
                        lambda group: [entry] if group == "kdlib.models" else [])
    registry._entry_points.cache_clear()
    assert "flat" in NETWORKS.names() and "flat" not in STRATEGIES.names()
    with pytest.raises(KdlibError, match=r"the network flat cannot be imported \(ModuleNotFoundError") as error:
        NETWORKS.find("flat")
    refused(error)
    plugin("nets", NETWORK)
    sys.path.insert(0, str(tmp_path))
    assert NETWORKS.find("flat").value.items == "image" and len(NETWORKS.find("flat").source) == 64
    registry._entry_points.cache_clear()


def made(name, **settings):
    return make_experiment("digits", name, profile="smoke", **settings)


def reloaded(path):
    """What the file holds now, in place of what it held."""
    sys.modules.pop(path.stem, None)
    registry.load(str(path))


def test_another_source_is_another_key_and_kdlibs_own_keys_know_of_none(plugin):
    own = made("alone").key(HASHES)
    reloaded(plugin("mine", STRATEGY))
    first = made("mine").key(HASHES)
    reloaded(plugin("mine", STRATEGY + "# no matter what it is\n"))
    assert made("mine").key(HASHES) != first and made("alone").key(HASHES) == own
    reloaded(plugin("mine", STRATEGY))
    assert made("mine").key(HASHES) == first


@pytest.mark.parametrize(("name", "sizes"), [("flat", 0), ("flat-8", 1), ("flat-8-9", 2)])
def test_another_source_of_a_network_is_another_key_whatever_its_sizes(name, sizes, plugin):
    text = REGISTERED.replace('"image"', f'"image", {sizes}')
    reloaded(plugin("nets", text))
    first = made("alone", architectures=[name])
    assert list(first.sources) == ["network flat"]
    before = first.key(HASHES)
    reloaded(plugin("nets", text + "# another\n"))
    assert made("alone", architectures=[name]).key(HASHES) != before


def test_a_strategy_and_a_network_of_one_name_are_told_apart(plugin):
    reloaded(plugin("mine", STRATEGY))
    reloaded(plugin("nets", NETWORK + 'NETWORKS.register("mine", FLAT)\n'))
    both = made("mine", architectures=["mine"])
    assert set(both.sources) == {"strategy mine", "network mine"} and len(set(both.sources.values())) == 2
    before = both.key(HASHES)
    reloaded(plugin("mine", STRATEGY + "# another\n"))
    assert made("mine", architectures=["mine"]).key(HASHES) != before


def test_of_a_package_every_file_counts(plugin):
    plugin("package/__init__", "")
    plugin("package/nets", NETWORK)
    helper = plugin("package/helper", "x = 1\n")
    registry.allow("package.nets:FLAT")
    before = NETWORKS.find("package.nets:FLAT").source
    helper.write_text("x = 2\n")
    NETWORKS._parts.clear()
    assert NETWORKS.find("package.nets:FLAT").source != before


def test_what_has_no_text_cannot_be_told_from_a_changed_one(plugin):
    scope = {"__name__": "nowhere"}
    exec("def build(task, classes, width, generator):\n    return None", scope)
    with pytest.raises(KdlibError, match=r"the source of <function build .* is not to be had, .*; allowed: a function "
                                         "or class in a file or a notebook's cell") as error:
        NETWORKS.register("mine", scope["build"])
    refused(error)


BOUND = """
import functools
from kdlib.learning.networks.cnn import BLOCKS, cnn
from kdlib.registry import NETWORKS
from kdlib.settings.architectures import Network

NETWORKS.register("bound", Network(functools.partial(cnn, BLOCKS["cnn2"]), "image", 2))
"""


def test_of_a_partial_what_is_bound_counts_and_kdlibs_own_code_does_not(plugin):
    reloaded(plugin("nets", BOUND))
    first = NETWORKS.find("bound").source
    reloaded(plugin("nets", BOUND))
    assert NETWORKS.find("bound").source == first
    reloaded(plugin("nets", BOUND.replace('["cnn2"]', '["cnn2"][:1]')))
    assert NETWORKS.find("bound").source != first
    reloaded(plugin("nets", NETWORK + 'import functools\nNETWORKS.register("bound", functools.partial(flat, 1))\n'))
    before = NETWORKS.find("bound").source
    reloaded(plugin("nets", NETWORK + 'import functools\nNETWORKS.register("bound", functools.partial(flat, 1)) #\n'))
    assert NETWORKS.find("bound").source not in (first, before)


class Builder:
    def __call__(self, task, classes, width, generator):
        return None


@pytest.mark.parametrize("build", [Builder(), functools.partial(Builder, print, Builder()), print],
                         ids=["object", "bound to an object", "built in"])
def test_what_is_neither_a_function_nor_a_class_of_a_file_is_refused(build, plugin):
    with pytest.raises(KdlibError, match="is not to be had, so a run's key could not tell it from a changed one"):
        NETWORKS.register("mine", build)
