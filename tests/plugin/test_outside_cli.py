"""The command line with a strategy and networks that are not kdlib's: installed, in a file, or by reference."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from guests import IMAGES, PACKAGE, experiment, one_line, options, rows_folder

import forked
from kdlib import __all__
from kdlib.runs import runner

TINY = options("digits", rounds=1)


@pytest.fixture
def kdlib(tmp_path):
    """`kdlib WORDS` in an empty folder; the finished process."""

    def call(*words, program="kdlib", **environment):
        return forked.run(program, *words, cwd=tmp_path, environment=os.environ | environment)

    return call


def result(done):
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_an_installed_strategy_is_one_of_those_that_there_are(kdlib):
    shown = kdlib("strategies").stdout.splitlines()
    assert [line.split()[0] for line in shown] == ["alone", "fedavg", "feddf", "fedmd", "dsfl"]
    assert shown[-1] == ("dsfl         DS-FL        Settings of DS-FL: sharpened mean predictions of unlabelled public "
                         "data are what clients exchange.")


def test_it_is_run_read_repeated_compared_and_exported(kdlib, tmp_path):
    made = result(kdlib("run", "--strategy", "dsfl", *TINY))
    own = runner.run(experiment("digits", rounds=1), tmp_path / "here", progress=False)
    assert made["key"] == own.key and made["accuracy"] == own.result["accuracy"]
    assert result(kdlib("replay", made["folder"], "--fused"))["repeated"] == "same final bytes"
    shown = kdlib("records", made["folder"]).stdout
    assert all(word in shown for word in ("sharpen", "distil", "cents", "guestnet", "digits dsfl alpha 0.5"))
    assert "dsfl fused" not in kdlib("compare", made["folder"]).stdout
    written = kdlib("export", made["folder"], "--out", "models").stdout.splitlines()
    assert len(written) == 5 and all((tmp_path / path).is_file() for path in written)
    told = kdlib("estimate", "--strategy", "dsfl", *TINY, "--json").stdout
    assert set(json.loads(told)["per_step"]) == {"train", "predict", "sharpen", "distil", "evaluate"}
    said = json.loads(kdlib("experiment", "--strategy", "dsfl", *TINY).stdout)
    assert said["temperature"] == 0.1 and said["architectures"] == list(IMAGES["architectures"])


def test_its_settings_are_checked_as_kdlibs_are(kdlib, tmp_path):
    one_line(kdlib("run", "--strategy", "dsfl", *TINY, "--set", "temperature=0"), "temperature", "greater than 0")
    one_line(kdlib("run", "--strategy", "dsfl", *TINY, "--set", "temprature=1"), "temprature", "mean temperature")
    one_line(kdlib("run", "--strategy", "dsfl", "--set", 'architectures=["guestnet", "rowsnet-8"]'),
             "architecture rowsnet-8 takes others, task digits has items of kind image")
    assert list(tmp_path.iterdir()) == []


def test_rows_of_numbers_run_by_files(kdlib, tmp_path):
    words = ["run", "--strategy", "dsfl", *options(rows_folder(tmp_path), rounds=1)]
    made = result(kdlib(*words, KDLIB_DATA=str(tmp_path)))
    assert made["key"] == runner.run(experiment("rows", rounds=1), tmp_path / "here", progress=False).key
    task = ["partition", "--task", tmp_path / "rows.toml", "--clients", "3"]
    for strategy in ([], ["--strategy", "dsfl"]):  # no network has a say in who holds what
        shown = kdlib(*task, *strategy, KDLIB_DATA=str(tmp_path))
        assert shown.stdout.count("client-") == 3 and "label entropy" in shown.stdout, shown.stderr


def test_a_strategy_and_a_network_are_named_by_their_module(kdlib):
    words = ["--strategy", f"{PACKAGE}.loose:PLAIN", *TINY,
             "--set", f'architectures=["cnn2-128-256", "{PACKAGE}.loose:flat"]']
    made = result(kdlib("run", *words))
    assert list(made["per_architecture"]) == ["cnn2-128-256", f"{PACKAGE}.loose:flat"]
    assert result(kdlib("run", *words)) == made, "the complete run is only read"
    # Another command finds it only where it is told to.
    one_line(kdlib("records", made["folder"]), f"the strategy {PACKAGE}.loose:PLAIN is not registered here; allowed: "
             f"`--plugin {PACKAGE}.loose`, KDLIB_PLUGINS={PACKAGE}.loose, or a package with an entry point")
    assert "sharpen" in kdlib("records", made["folder"], "--plugin", f"{PACKAGE}.loose").stdout
    assert "sharpen" in kdlib("records", made["folder"], KDLIB_PLUGINS=f"{PACKAGE}.loose").stdout
    repeated = result(kdlib("--plugin", f"{PACKAGE}.loose", "replay", made["folder"]))
    assert repeated["repeated"] == "same final bytes"


FILE = """
import dataclasses
import kdlib
from guestlib.dsfl import STRATEGY
from guestlib.loose import flat

kdlib.register_strategy(dataclasses.replace(STRATEGY, name="of-a-file", title="of a file"))
kdlib.register_network("flat", flat)
"""


@pytest.fixture
def plugin(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "my_plugin.py").write_text(FILE)
    return "below/my_plugin.py"


@pytest.mark.parametrize("place", ["before", "after", "environment"])
def test_a_file_registers_both(place, kdlib, plugin, tmp_path):
    words = ["run", "--strategy", "of-a-file", *TINY, "--set", 'architectures=["flat", "guestnet"]']
    if place == "environment":
        made = result(kdlib(*words, KDLIB_PLUGINS=os.pathsep.join([str(tmp_path / plugin), f"{PACKAGE}.loose"])))
    else:
        made = result(kdlib(*["--plugin", plugin] * (place == "before"), *words,
                            *["--plugin", plugin] * (place == "after")))
    assert set(made["per_architecture"]) == {"flat", "guestnet"}
    assert "of-a-file" in kdlib("strategies", "--plugin", plugin).stdout
    one_line(kdlib("records", made["folder"]), "unknown strategy 'of-a-file'", "allowed: alone", "`--plugin FILE.py`")
    shown = kdlib("records", made["folder"], "--plugin", plugin)
    assert shown.returncode == 0 and "sharpen" in shown.stdout


def test_the_file_is_known_to_ray_and_to_functions(kdlib, plugin, ray_folder, tmp_path):
    words = ["--plugin", plugin, "--strategy", "of-a-file", *options("digits", rounds=1, clients=2)]
    own = result(kdlib("run", *words, "--runs", "inline"))
    bytes_ = json.loads((tmp_path / own["folder"] / "result.json").read_text())["final_bytes"]

    by_ray = result(kdlib("run", *words, "--runs", "ray", "--invoker", "ray", "--workers", "1"))
    assert json.loads((tmp_path / by_ray["folder"] / "result.json").read_text())["final_bytes"] == bytes_

    said = kdlib("experiment", *words).stdout
    (tmp_path / "experiment.json").write_text(said)
    refused = kdlib("up", "--process", "--experiment", "experiment.json", program="faas")
    assert refused.returncode == 2 and "unknown strategy 'of-a-file'" in refused.stderr
    up = kdlib("up", "--process", "--experiment", "experiment.json", "--plugin", plugin, program="faas")
    assert up.returncode == 0, up.stderr
    try:
        by_http = result(kdlib("run", *words, "--runs", "http", "--invoker", "http", "--endpoints",
                               "functions/endpoints.json"))
    finally:
        assert kdlib("down", program="faas").returncode == 0
    assert json.loads((tmp_path / by_http["folder"] / "result.json").read_text())["final_bytes"] == bytes_


@pytest.mark.parametrize(("words", "said"), [
    (["--plugin", "gone.py"], ["there is no plugin", "gone.py", "allowed: the path of a Python file"]),
    (["--plugin", "gone_module"], ["the plugin gone_module cannot be imported", "ModuleNotFoundError"]),
    (["--strategy", "gone.module:PLAIN"], ["the plugin gone.module cannot be imported", "allowed: a FILE.py"]),
    (["--strategy", "dsfx"], ["unknown strategy 'dsfx' (did you mean dsfl?)", "package.module:NAME", "KDLIB_PLUGINS"]),
    (["--set", 'architectures=["guestnets"]'], ["'guestnets' is no architecture", "guestnet", "`--plugin FILE.py`"]),
    (["--set", f'architectures=["{PACKAGE}.loose:flatt"]'], [f"{PACKAGE}.loose has no flatt"]),
    (["--set", f'architectures=["{PACKAGE}.dsfl:STRATEGY"]'], ["is no network", "a function that makes a torch"]),
])
def test_what_is_missing_or_has_another_name_is_one_line_that_says_how_to_register_it(words, said, kdlib, tmp_path):
    one_line(kdlib("run", *([] if "--strategy" in words else ["--strategy", "dsfl"]), *TINY, *words), *said)
    assert list(tmp_path.iterdir()) == []


def test_without_the_package_the_console_script_says_how_to_register_it(kdlib, tmp_path):
    made = result(kdlib("run", "--strategy", "dsfl", *TINY))
    shown = subprocess.run([Path(sys.executable).with_name("kdlib"), "records", made["folder"]], cwd=tmp_path,
                           capture_output=True, text=True, env=os.environ | {"PYTHONPATH": ""})
    one_line(shown, "unknown strategy 'dsfl'; allowed: alone, fedavg, feddf, fedmd; or one of your own as "
                    "package.module:NAME, or registered by a file: `--plugin FILE.py`")


def test_neither_kdlib_nor_faas_names_the_package():
    root = Path(__file__).parents[2]
    texts = {path: path.read_text() for room in ("kdlib", "faas") for kind in ("py", "toml", "md")
             for path in (root / room).rglob(f"*.{kind}")}
    assert len(texts) > 100
    assert [path for path, text in texts.items() if any(word in text.lower() for word in (
        PACKAGE, "dsfl", "ds-fl", "guestnet", "rowsnet", "itahara"))] == []


def test_the_package_needs_of_kdlib_only_what_is_public():
    for path in (Path(__file__).parent / "src" / PACKAGE).glob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        froms = [node for node in nodes if isinstance(node, ast.ImportFrom) and str(node.module).startswith("kdlib")]
        assert {node.module for node in froms} <= {"kdlib"}
        names = {alias.name for node in froms for alias in node.names}
        names |= {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
                  and node.value.id == "kdlib"}
        assert names <= set(__all__), names
