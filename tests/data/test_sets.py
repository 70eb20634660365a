import os
import shutil

import numpy as np
import pytest

from kdlib.data import npz, sets
from kdlib.errors import KdlibError
from kdlib.runs import runner
from kdlib.settings.experiment import make_experiment
from kdlib.settings.task import load_task

OWN_TASK = """
name = "own"
shape = {shape}
[private]
name = "own"
classes = {private}
[public]
name = "{public}"
classes = {public_classes}
"""


@pytest.fixture
def own_task(tmp_path):
    def write(shape=(10, 10), private=(0, 2), public="own", public_classes=(3, 1)):
        path = tmp_path / "task.toml"
        path.write_text(OWN_TASK.format(shape=list(shape), private=list(private), public=public,
                                        public_classes=list(public_classes)))
        return str(path)

    return write


def experiment(task, strategy="feddf", **settings):
    settings = {"clients": 3, "clients_per_round": 3, "samples": None, "validation_items": None} | settings
    if strategy == "fedmd":
        del settings["clients_per_round"], settings["validation_items"]
    return make_experiment(task, strategy, 1.0, profile="smoke", **settings)


def items(split):
    return {image.tobytes() for image in split.x}


def test_digits_are_a_fixed_stratified_split():
    found, again = sets.load("digits"), sets.load("digits")
    assert (len(found.train.y), len(found.test.y)) == (1437, 360)
    for split in found:
        assert split.x.shape[1:] == (28, 28) and split.x.dtype == np.uint8 and split.x.max() == 255
        assert np.bincount(split.y) / len(split.y) == pytest.approx(np.bincount(found.train.y) / 1437, abs=0.003)
    assert not items(found.train) & items(found.test)
    assert all((a == b).all() for a, b in zip([*found.train[:2], *found.test[:2]], [*again.train[:2], *again.test[:2]],
                                               strict=True))


def test_digits_look_like_digits():
    from sklearn.datasets import load_digits

    small = load_digits().images[0]
    enlarged = {image[3:27:3, 3:27:3].tobytes() for split in sets.load("digits") for image in split.x}
    assert np.rint(small * 255 / 16).astype(np.uint8).tobytes() in enlarged


def test_labels_are_numbered_in_the_tasks_order(own_data, own_task):
    own_data()
    task = own_task(private=(2, 0), public_classes=(3, 1))
    drawn, raw = sets.prepare(experiment(task)), sets.load("own")
    original = {image.tobytes(): label for split in raw for image, label in zip(split.x, split.y, strict=True)}
    for split in (drawn.private, drawn.validation, drawn.test, drawn.public):
        for image, label in zip(split.x, split.y, strict=True):
            assert (2, 0, 3, 1)[label] == original[image.tobytes()]
    assert set(drawn.public.y) == {2, 3} and set(drawn.test.y) == {0, 1}


@pytest.mark.parametrize("strategy", ["fedmd", "feddf"])
def test_no_item_has_two_roles(strategy, own_data, own_task):
    own_data()
    drawn = sets.prepare(experiment(own_task(), strategy))
    roles = [items(split) for split in drawn[:4]]
    assert [len(role) for role in roles] == [54, 6, 15, 60]
    assert len(set.union(*roles)) == sum(map(len, roles))


def test_a_seed_gives_every_strategy_the_same_items(own_data, own_task):
    own_data()
    feddf, fedmd, other = (sets.prepare(experiment(own_task(), strategy, samples=5, seed=seed))
                           for strategy, seed in (("feddf", 0), ("fedmd", 0), ("feddf", 1)))
    assert (feddf.private.x == fedmd.private.x).all() and (feddf.validation.x == fedmd.validation.x).all()
    assert items(feddf.validation) != items(other.validation)
    assert feddf.hashes == fedmd.hashes == other.hashes


def test_caps_hold(own_data, own_task):
    own_data()
    drawn = sets.prepare(experiment(own_task(), samples=4, validation_items=3, test_items=7, public_items=11))
    assert [len(split.y) for split in drawn[:4]] == [12, 3, 7, 11]


@pytest.mark.parametrize("changed", ["x_train", "y_train", "x_test", "y_test"])
def test_hashes_tell_any_changed_array(changed, own_data, own_task):
    path = own_data()
    before = sets.prepare(experiment(own_task())).hashes
    with np.load(path) as arrays:
        kept = dict(arrays)
    kept[changed] = kept[changed].copy()
    kept[changed].flat[0] = (kept[changed].flat[0] + 2) % 4
    np.savez(path, **kept)
    assert sets.prepare(experiment(own_task())).hashes != before


def test_sha256_knows_dtype_and_shape():
    zeros = np.zeros(4, np.uint8)
    assert len({sets.sha256(array) for array in (zeros, zeros.reshape(2, 2), zeros.view(np.int8), zeros[:3])}) == 4
    grid = np.arange(6).reshape(2, 3)
    assert sets.sha256(grid.T) == sets.sha256(grid.T.copy()) != sets.sha256(grid)


IMAGES = np.zeros((8, 10, 10), np.uint8)


@pytest.mark.parametrize(("instead", "says"), [
    ({"x_train": None}, "has no x_train; it must hold x_train, y_train, x_test, y_test"),
    ({"x_train": None, "y_test": None}, "has no x_train, y_test;"),
    ({"x_train": IMAGES.astype(np.complex64), "y_train": np.zeros(8, int)}, r"items are complex64 \(8, 10, 10\)"),
    ({"x_test": IMAGES[:, 0], "y_test": np.zeros(8, int)}, r"test items of shape \[10\], training items of"),
    ({"x_test": IMAGES, "y_test": np.zeros(7, int)}, r"labels are int64 \(7,\) for 8 items; they must be 8 integers"),
    ({"x_test": IMAGES, "y_test": np.zeros(8)}, r"labels are float64 \(8,\) for 8 items"),
    ({"x_test": IMAGES, "y_test": np.array(["a"] * 8, object)}, "damaged or no .npz file"),
])
def test_a_file_of_another_format_is_refused_in_one_line(instead, says, own_data):
    own_data(**instead)
    with pytest.raises(KdlibError, match=says) as error:
        sets.load("own")
    assert "\n" not in str(error.value) and "own.npz" in str(error.value)


@pytest.mark.parametrize("damage", [
    lambda whole: b"", lambda whole: whole[: len(whole) // 2], lambda whole: b"no archive",
    lambda whole: whole[:60] + bytes(byte ^ 255 for byte in whole[60:400]) + whole[400:],
], ids=["empty", "truncated", "text", "flipped bits"])
def test_a_damaged_file_is_named(damage, own_data):
    path = own_data()
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(KdlibError, match=r"own\.npz is damaged or no \.npz file: .") as error:
        sets.load("own")
    assert "\n" not in str(error.value)


def test_a_file_that_would_fill_the_memory_is_refused(own_data, monkeypatch):
    own_data()
    monkeypatch.setattr(npz, "LARGEST", 1000)
    with pytest.raises(KdlibError, match="unpacks to more than"):
        sets.load("own")


def test_missing_files_are_all_named_with_what_helps(own_data, own_task):
    own_data("another")
    with pytest.raises(KdlibError, match=r"lacks beyond\.npz, own\.npz; .*`kdlib data fetch beyond own`.*KDLIB_DATA"):
        sets.prepare(experiment(own_task(public="beyond")))


@pytest.mark.parametrize(("task", "settings", "says"), [
    ({"shape": (10, 10, 3)}, {}, r"task own says images of shape \[10, 10, 3\], but own has \[10, 10\]"),
    ({"private": (0, 7)}, {}, r"own has no items of class 7; its classes are \[0, 1, 2, 3\]"),
    ({"public_classes": (1, 8, 9)}, {}, "own has no items of class 8, 9;"),
    ({}, {"clients": 28}, "54 private items are too few for 28 clients; allowed: clients up to 27, two items each"),
])
def test_data_that_do_not_suit_the_task_are_refused(task, settings, says, own_data, own_task):
    own_data()
    with pytest.raises(KdlibError, match=says) as error:
        sets.prepare(experiment(own_task(**task), **settings))
    assert "\n" not in str(error.value)


def test_an_own_task_with_own_colour_data_runs(own_data, own_task, tmp_path):
    x = np.random.default_rng(0).integers(256, size=(90, 16, 16, 3)).astype(np.uint8)
    y = np.arange(90) % 3
    own_data(x_train=x[:60], y_train=y[:60], x_test=x[60:], y_test=y[60:])
    chosen = experiment(own_task(shape=(16, 16, 3), private=(0, 2), public_classes=(1,)), rounds=1, local_epochs=1,
                        distil_batches=2, architectures=("cnn2-128-256",))
    assert runner.run(chosen, tmp_path / "runs", progress=False).result["rounds"] == 1


@pytest.fixture
def real_data(monkeypatch):
    """Skips where the environment's KDLIB_DATA has not all of the real files named."""

    def needed(*names):
        if missing := [f"{name}.npz" for name in names if not (sets.folder() / f"{name}.npz").is_file()]:
            pytest.skip(f"{', '.join(missing)} not in KDLIB_DATA or the user's cache")

    return needed


@pytest.mark.parametrize(("name", "classes", "shape", "train", "test"), [
    ("mnist", 10, (28, 28), 60_000, 10_000), ("emnist_letters", 26, (28, 28), None, None),
    ("cifar10", 10, (32, 32, 3), None, None), ("cifar100", 100, (32, 32, 3), None, None)])
def test_the_real_files_are_of_the_format(name, classes, shape, train, test, real_data):
    real_data(name)
    found = sets.load(name)
    for split, count in zip(found, (train, test), strict=True):
        assert split.x.shape[1:] == shape and set(split.y) == set(range(classes))
        assert count is None or len(split.y) == count


def test_the_mnist_task_holds_back_a_tenth(real_data):
    real_data("mnist", "emnist_letters")
    drawn = sets.prepare(make_experiment("mnist", "feddf", 1.0, profile="paper"))
    assert [len(split.y) for split in drawn[:3]] == [54_000, 6_000, 10_000]
    assert set(drawn.public.y) == set(range(10, 36)) and load_task("mnist").image == (1, 28, 28)


def test_the_cifar_task_has_the_papers_classes(real_data):
    real_data("cifar10", "cifar100")
    fedmd, feddf = (sets.prepare(make_experiment("cifar", strategy, 1.0, profile="paper"))
                    for strategy in ("fedmd", "feddf"))
    # Six of CIFAR-100's classes have 500 training and 100 test images each, a tenth of the former held back.
    assert [len(split.y) for split in fedmd[:3]] == [2_700, 300, 600]
    assert set(fedmd.private.y) == set(range(6)) and set(fedmd.public.y) == set(range(6, 16))
    assert set(feddf.private.y) == set(feddf.test.y) == set(range(10)) and len(set(feddf.public.y)) == 100


def test_a_truncated_real_file_is_refused(real_data, tmp_path, monkeypatch):
    real_data("mnist")
    whole = sets.folder() / "mnist.npz"
    shutil.copy(whole, tmp_path)
    os.truncate(tmp_path / "mnist.npz", whole.stat().st_size // 2)
    monkeypatch.setenv("KDLIB_DATA", str(tmp_path))
    with pytest.raises(KdlibError, match="damaged"):
        sets.load("mnist")
