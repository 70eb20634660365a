"""What a data set holds is looked at before anything is trained: labels, shapes, brightness, how many items."""

import json

import numpy as np
import pytest

from kdlib.data import sets
from kdlib.data.arrays import task
from kdlib.errors import KdlibError
from kdlib.runs import archive, runner
from kdlib.runs.run import load
from kdlib.settings.experiment import make_experiment
from kdlib.settings.task import Source, Task

RNG = np.random.default_rng(0)
X, Y = RNG.integers(0, 256, (120, 10, 10), dtype=np.uint8), np.arange(120) % 4
TINY = {"profile": "smoke", "architectures": ["cnn2-8-16"], "clients": 2, "rounds": 1, "local_epochs": 1}


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch):
    monkeypatch.setattr(sets, "IN_MEMORY", {})
    monkeypatch.setattr("kdlib.data.arrays.IN_MEMORY", sets.IN_MEMORY)


@pytest.fixture
def own(own_data):
    """Write own.npz with other arrays instead, and make an Experiment on it."""

    def made(shape=(10, 10), public=(3,), strategy="alone", pixels=255, **instead):
        arrays = {"x_train": X, "y_train": Y, "x_test": X[:60], "y_test": Y[:60]} | instead
        own_data(**arrays)
        white = {} if pixels == 255 else {"pixels": pixels}
        chosen = Task(name="own", shape=shape, **white, private=Source(name="own", classes=(0, 1, 2)),
                      public=Source(name="own" if public else "rest", classes=public))
        if not public:
            own_data("rest", **arrays)
        more = {} if strategy == "alone" else {"clients_per_round": 2, "distil_batches": 2}
        return make_experiment(chosen, strategy, 1.0, **TINY, **more)

    return made


def refused(experiment):
    with pytest.raises(KdlibError) as error:
        sets.prepare(experiment)
    assert "\n" not in str(error.value)
    return str(error.value)


def some(labels, value, count=7):
    changed = labels.astype(np.int64)
    changed[:count] = value
    return changed


@pytest.mark.parametrize(("arrays", "says"), [
    ({"y_train": some(Y, -1)}, "own: 7 of 120 training items have the label -1, which is none; allowed: labels from 0"),
    ({"y_test": some(Y[:60], -1)}, "own: 7 of 60 test items have the label -1, which is none"),
    ({"y_train": some(Y, 10**12)}, "7 of 120 labels are like 1000000000000; allowed: 0 to 2147483647, and -1"),
    ({"y_train": some(Y, -7)}, "7 of 120 labels are like -7; allowed: 0 to"),
    ({"y_test": np.full(60, 2**64 - 1, np.uint64)}, "60 of 60 labels are like 18446744073709551615; allowed: 0 to"),
])
def test_a_label_that_is_none_is_named_with_its_count_and_what_is_allowed(arrays, says, own):
    assert says in refused(own(**arrays))


def test_items_without_a_label_suit_public_data_whose_labels_nobody_takes(own):
    drawn = sets.prepare(own(public=(), strategy="feddf", y_train=Y))
    assert len(drawn.public.y) == 120 and (drawn.public.y == -1).all()
    labelled = own(public=(3,), strategy="feddf")
    np.savez(sets.folder() / "shy.npz", x_train=X, y_train=some(Y, -1))
    chosen = labelled.task.model_copy(update={"public": Source(name="shy", classes=(3,))})
    assert "or as public data without labels no `classes` in the task" in refused(
        labelled.model_copy(update={"task": chosen}))
    chosen = labelled.task.model_copy(update={"public": Source(name="shy")})
    assert len(sets.prepare(labelled.model_copy(update={"task": chosen})).public.y) == 120


def test_large_labels_are_numbered_like_small_ones(own_data):
    own_data(x_train=X, y_train=Y * 10**9 // 2, x_test=X, y_test=Y * 10**9 // 2)
    chosen = Task(name="own", shape=(10, 10), private=Source(name="own", classes=(5 * 10**8, 0)),
                  public=Source(name="own", classes=(10**9,)))
    drawn = sets.prepare(make_experiment(chosen, "alone", 1.0, **TINY))
    assert {item.tobytes() for item in drawn.test.x[drawn.test.y == 0]} == {item.tobytes() for item in X[Y == 1]}
    assert set(drawn.test.y) == {0, 1} and set(drawn.public.y) == {2}


def test_a_test_label_that_no_private_item_has_is_refused_of_arrays():
    with pytest.raises(KdlibError, match="test data of mine: 30 of 120 labels are like 3, which no private item has"):
        task("mine", (X[Y < 3], Y[Y < 3]), X, (X, Y))


@pytest.mark.parametrize(("arrays", "says"), [
    ({"x_test": X[:60, :, :9]}, "has test items of shape [10, 9], training items of [10, 10]; they must be alike"),
    ({"x_test": X[:60, ..., None]}, "has test items of shape [10, 10, 1], training items of [10, 10]"),
    ({"x_train": X.reshape(-1, 20, 5), "x_test": X[:60].reshape(-1, 20, 5)}, "but own has [20, 5]"),
])
def test_items_of_another_shape_are_refused(arrays, says, own):
    assert says in refused(own(**arrays))


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 20, 30), (12, 64, 64)])
def test_a_shape_with_the_channels_first_is_refused_with_what_is_meant(shape):
    with pytest.raises(ValueError, match="seems to have the channels first; allowed: ") as error:
        Task(name="own", shape=shape, private=Source(name="a", classes=(0,)), public=Source(name="b"))
    assert f"here {[*shape[1:], shape[0]]}" in str(error.value)


@pytest.mark.parametrize("shape", [(32, 32, 3), (28, 28, 1), (3, 4), (64, 64, 12), (5, 7, 6), (3, 32, 4), (16, 16, 16)])
def test_other_shapes_are_what_they_say(shape):
    private, public = Source(name="a", classes=(0,)), Source(name="b")
    assert Task(name="own", shape=shape, private=private, public=public).shape == shape


def test_arrays_with_the_channels_first_are_refused_with_what_is_meant(own):
    pictures = np.repeat(X[:, None], 3, axis=1)
    assert "allowed: channels last, as x.transpose(0, 2, 3, 1) makes them" in refused(
        own((10, 10, 3), x_train=pictures, x_test=pictures[:60]))
    with pytest.raises(KdlibError, match="seems to have the channels first"):
        task("mine", (pictures, Y), pictures, (pictures, Y))


BINARY = (X > 127).astype(np.uint8)


@pytest.mark.parametrize(("train", "test", "note"), [
    (BINARY, BINARY[:60], "of 0 to 1, taken as 0 (black) to 255 (white): all is nearly black; if 1 is white, say"),
    (X // 16, X[:60] // 16, "pixels of 0 to 15, taken as 0 (black) to 255 (white)"),
    (X.astype(np.float32), X[:60].astype(np.float32), "has float pixels of 0 to 255, taken as they are"),
    (X, X[:60], None), (X / 255, X[:60] / 255, None), (X // 2, X[:60] // 2, None),
    (X / 127.5 - 1, X[:60] / 127.5 - 1, None),
])
def test_images_of_an_unusual_brightness_are_told_and_kept_with_the_run(train, test, note, own, tmp_path, caplog):
    ran = runner.run(own(x_train=train, x_test=test), tmp_path / "runs", progress=False)
    notes = load(ran.folder).data["notes"]
    assert (note is None) == (notes == []) and all(text in caplog.text for text in notes)
    assert note is None or all(note in text for text in notes)
    archive.keep(ran, tmp_path / "kept")
    archive.restore(tmp_path / "kept", tmp_path / "again")
    assert json.loads((tmp_path / "again" / ran.key / "data.json").read_text())["notes"] == notes


def test_a_task_says_what_is_white_and_then_binary_images_are_those_of_0_and_255(own, tmp_path, caplog):
    ends = []
    for pixels, factor in ((1, 1), (255, 255)):
        ran = runner.run(own(x_train=BINARY * factor, x_test=BINARY[:60] * factor, pixels=pixels), tmp_path / "runs",
                         progress=False)
        ends.append((ran.final["per_architecture"], ran.store.content("client-0000/001/weights")))
    assert ends[0] == ends[1] and "pixels" not in caplog.text


def test_what_is_white_is_part_of_the_key_only_where_it_is_said(own):
    usual, binary = own(), own(pixels=1)
    hashes = {"private.x": "0"}
    assert usual.key(hashes) != binary.key(hashes)
    dumped = usual.model_dump(mode="json", exclude_defaults=True)
    assert "pixels" not in dumped["task"]


@pytest.mark.parametrize(("arrays", "pixels", "says"), [
    ({"x_test": BINARY[:60]}, 255, "the images of private own reach 1 as models see them, those of test own 0.00392"),
    ({"x_test": X[:60].astype(np.float32)}, 255, "those of test own 25"),
    ({}, 1, "private own has bytes up to 255, and task own says pixels = 1; allowed: pixels = 255 to 255"),
])
def test_two_scales_in_one_data_set_are_refused(arrays, pixels, says, own):
    assert says in refused(own(pixels=pixels, **arrays))


def test_public_images_of_another_scale_are_told():
    made = task("mine", (X, Y), X.astype(np.float32), (X, Y))
    notes = sets.prepare(make_experiment(made, "alone", 1.0, **TINY)).notes
    assert any("they may be of different scales" in note for note in notes)


def test_numbers_that_float32_cannot_hold_are_refused():
    with pytest.raises(KdlibError, match="private data of mine: 1 numbers are NaN or infinite"):
        task("mine", (np.where(np.arange(12000).reshape(120, 10, 10) == 5, 1e39, 0.5), Y), X, (X, Y))


@pytest.mark.parametrize(("items", "strategy", "says"), [
    (8, "feddf", "none is left to validate on (a tenth is), as feddf does; allowed: 10 or more"),
    (9, "feddf", "none is left to validate on"), (10, "feddf", None), (8, "alone", None), (8, "fedavg", None)])
def test_too_few_items_to_validate_on_are_refused_where_somebody_does(items, strategy, says):
    made = task("mine", (X[:items], np.arange(items) % 2), X, (X, Y % 2))
    more = {} if strategy == "alone" else {"clients_per_round": 2}
    experiment = make_experiment(made, strategy, 1.0, **TINY, **more)
    if says:
        assert says in refused(experiment)
    else:
        assert len(sets.prepare(experiment).private.y) >= 8
