"""A run's models, as files that others can load."""

import pytest
from safetensors import safe_open
from safetensors.torch import load_file

from kdlib.errors import KdlibError
from kdlib.learning import client
from kdlib.runs import exports
from kdlib.settings.experiment import from_json


@pytest.mark.parametrize("strategy", ["fedmd", "feddf"])
def test_the_files_are_the_last_rounds_models(strategy, common, tmp_path):
    the_run = common(strategy, alpha=0.1)
    experiment = the_run.experiment
    written = exports.export(the_run, tmp_path / "models")
    whose = experiment.client_names if strategy == "fedmd" else experiment.architectures
    assert [path.name for path in written] == sorted(["README.md", *(f"{name}.safetensors" for name in whose)])
    for name in whose:
        model = client.start(experiment, name)
        model.load_state_dict(load_file(tmp_path / "models" / f"{name}.safetensors"))
        with safe_open(tmp_path / "models" / f"{name}.safetensors", "pt") as file:
            assert file.metadata() == {"run": the_run.key, "architecture": experiment.architecture_of(name)}
        stored = f"{name}/003/weights" if strategy == "fedmd" else f"public/003/{name}"
        kept = the_run.store.get(stored)
        assert all((value == kept[tensor]).all() for tensor, value in model.state_dict().items() if tensor in kept)


def test_the_card_says_what_was_run_and_what_it_reached(common, tmp_path):
    the_run = common("feddf", alpha=0.1)
    exports.export(the_run, tmp_path / "models")
    text = (tmp_path / "models" / "README.md").read_text()
    assert the_run.key in text and "a Dirichlet law of alpha 0.1 over 6 clients" in text
    for name, accuracy in the_run.result["per_architecture"].items():
        assert f"| {name} | {accuracy:.3f} |" in text
    assert from_json(text.splitlines()[-1].strip("`")) == the_run.experiment


def test_nothing_is_written_over(common, tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine").touch()
    with pytest.raises(KdlibError, match="is there already; allowed: a new folder, or an empty one"):
        exports.export(common("feddf", alpha=0.1), tmp_path / "models")
    assert [path.name for path in tmp_path.iterdir()] == ["models"]
