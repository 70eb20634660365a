"""Data of one's own: arrays, float32, tokens, owners that the data name, unlabelled public data, saved folders."""

import json

import numpy as np
import pytest

import kdlib
from kdlib.data import sets
from kdlib.data.arrays import task
from kdlib.errors import KdlibError
from kdlib.runs import runner
from kdlib.settings.experiment import make_experiment

RNG = np.random.default_rng(0)
X, Y = RNG.integers(0, 256, (600, 12, 12), dtype=np.uint8), np.arange(600) % 4
NETWORKS = {"architectures": ["cnn2-8-16", "cnn3-8-8-8"]}
TINY = {"profile": "smoke", "rounds": 1}


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch):
    monkeypatch.setattr(sets, "IN_MEMORY", {})
    monkeypatch.setattr("kdlib.data.arrays.IN_MEMORY", sets.IN_MEMORY)


def test_arrays_make_a_task_that_runs_and_whose_settings_are_json(tmp_path):
    made = task("mine", (X, Y), (X[:100], Y[:100]), (X[:50], Y[:50]))
    assert (made.items, made.shape, made.private.classes) == ("image", (12, 12), (0, 1, 2, 3))
    ran = runner.run(make_experiment(made, "fedmd", 0.5, **TINY, **NETWORKS), tmp_path, progress=False)
    again = kdlib.load(ran.folder)
    assert again.experiment == ran.experiment and 0 <= again.result["accuracy"] <= 1
    assert json.loads((ran.folder / "experiment.json").read_text())["task"]["name"] == "mine"


def test_the_arrays_decide_the_key():
    def key(x):
        return make_experiment(task("mine", (x, Y), (X, Y), (X, Y)), "feddf", 0.5, **TINY, **NETWORKS)

    keys = []
    for x in (X, X[::-1].copy()):
        experiment = key(x)
        keys.append(experiment.key(sets.prepare(experiment).hashes))
    assert len(set(keys)) == 2


def test_float_images_are_taken_as_they_are_and_uint8_divided():
    import torch

    from kdlib.learning.engine import inputs

    floats = make_experiment(task("mine", (X.astype("f8") / 255, Y), X, (X / 255, Y)), "feddf", 0.5, **TINY, **NETWORKS)
    drawn = sets.prepare(floats)
    assert drawn.private.x.dtype == np.float32
    whole = make_experiment(task("mine", (X, Y), X, (X, Y)), "feddf", 0.5, **TINY, **NETWORKS)
    as_float, as_bytes = (inputs(each, torch.from_numpy(sets.prepare(each).private.x[:5])) for each in (floats, whole))
    assert torch.allclose(as_float, as_bytes, atol=1e-6) and as_float.shape == (5, 1, 12, 12)


def test_public_data_without_labels_suit_those_who_need_none(tmp_path):
    made = task("mine", (X, Y), X[:100], (X[:50], Y[:50]))
    public = sets.load("mine-public", sets.Needs(labels=False, test=False)).train
    assert not made.labelled_public and (public.y == -1).all()
    assert runner.run(make_experiment(made, "feddf", 0.5, **TINY, **NETWORKS), tmp_path, progress=False).result
    with pytest.raises(KdlibError, match="fedmd learns from labelled public data, which task mine has not"):
        make_experiment(made, "fedmd", 0.5, **TINY, **NETWORKS)


def test_an_owner_is_a_client_with_test_items_of_its_own(tmp_path):
    owner = np.array([f"writer{number % 9}" for number in range(600)])
    made = task("hands", (X, Y), (X[:90], Y[:90]), (X[:300], Y[:300]), owners=(owner, owner[:300]))
    experiment = make_experiment(made, "feddf", clients=4, clients_per_round=4, **TINY, **NETWORKS)
    assert experiment.alpha is None and experiment.evaluated == experiment.client_names
    drawn = sets.prepare(experiment)
    assert len(set(drawn.roles)) == 4 and len(drawn.validation.y)
    for number, role in enumerate(drawn.roles):
        own, tested = drawn.private.take(drawn.private.owner == number), drawn.test.take(drawn.test.owner == number)
        assert {image.tobytes() for image in own.x} <= {image.tobytes() for image in X[owner == role]}
        assert {image.tobytes() for image in tested.x} == {image.tobytes() for image in X[:300][owner[:300] == role]}
    held = {image.tobytes() for image in drawn.validation.x}
    assert not held & {image.tobytes() for image in drawn.private.x}
    ran = runner.run(experiment, tmp_path, progress=False)
    assert set(ran.partition["role"]) == set(drawn.roles)
    with pytest.raises(KdlibError, match=r"9 of 9 owners have 2 training and 1 test items, .*: clients up to 8"):
        sets.prepare(make_experiment(made, "feddf", clients=9, clients_per_round=9, **TINY, **NETWORKS))


def test_tokens_are_texts_of_any_vocabulary(tmp_path):
    tokens = RNG.integers(0, 300, (400, 10))
    labels = tokens[:, 0] % 3
    made = task("words", (tokens, labels), (tokens[:80], labels[:80]), (tokens[:60], labels[:60]))
    assert made.items == "text" and made.vocabulary <= 300
    experiment = make_experiment(made, "fedmd", 0.5, architectures=["lstm1-16", "transformer2-16"], **TINY)
    assert runner.run(experiment, tmp_path, progress=False).result


@pytest.mark.parametrize(("arrays", "says"), [
    ({"private": (X.astype("f4") * np.nan, Y)}, "86400 numbers are NaN or infinite; allowed: none"),
    ({"private": (X, Y - 1)}, "private data of mine: 600 labels, the least is -1; allowed: one or more, from 0"),
    ({"private": (X, Y[:5])}, r"labels are int64 \(5,\) for 600 items; they must be 600 integers"),
    ({"private": (X, Y.astype(float))}, "labels are float64"),
    ({"private": (X.astype(complex), Y)}, "items are complex128"),
    ({"private": (X[:0], Y[:0])}, "0 labels, the least is none"),
    ({"owners": (Y[:3], Y[:3])}, r"owners are int64 \(3,\) for 600 items"),
    ({"items": "text"}, "task mine: .*a text|task mine: shape|allowed: "),
])
def test_arrays_that_do_not_fit_are_one_line(arrays, says):
    given = {"private": (X, Y), "public": X, "test": (X, Y)} | arrays
    with pytest.raises(KdlibError, match=says) as error:
        task("mine", **given)
    assert "\n" not in str(error.value)


def test_a_task_of_arrays_that_are_gone_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_DATA", str(tmp_path))
    experiment = make_experiment(task("mine", (X, Y), X, (X, Y)), "feddf", 0.5, **TINY, **NETWORKS)
    sets.IN_MEMORY.clear()
    with pytest.raises(KdlibError, match=r"lacks mine-public\.npz, mine\.npz; .* arrays to kdlib\.task first"):
        sets.prepare(experiment)


FOLDER = """
name = "hands"
shape = [12, 12]
shared = "owners"
[private]
name = "hands"
classes = [0, 1]
[public]
name = "hands"
classes = [2, 3]
"""


def test_a_saved_hugging_face_folder_is_a_data_set(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="the extra `datasets` is not installed")
    image = pytest.importorskip("PIL.Image")

    def made(count):
        columns = {"image": [image.fromarray(picture) for picture in X[:count]], "label": Y[:count].tolist(),
                   "owner": [f"w{number % 9}" for number in range(count)]}
        return datasets.Dataset.from_dict(columns, features=datasets.Features(
            image=datasets.Image(), label=datasets.Value("int64"), owner=datasets.Value("string")))

    datasets.DatasetDict(train=made(400), test=made(200)).save_to_disk(str(tmp_path / "hands"))
    (tmp_path / "own.toml").write_text(FOLDER)
    monkeypatch.setenv("KDLIB_DATA", str(tmp_path))
    found = sets.load("hands")
    assert np.array_equal(found.train.x, X[:400]) and np.array_equal(found.test.y, Y[:200])
    own = str(tmp_path / "own.toml")
    experiment = make_experiment(own, "feddf", clients=4, clients_per_round=4, **TINY, **NETWORKS)
    assert runner.run(experiment, tmp_path / "runs", progress=False).result
    (tmp_path / "hands" / "dataset_dict.json").write_text("{")
    with pytest.raises(KdlibError, match="hands is no saved data set"):
        sets.load("hands")
