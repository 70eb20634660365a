"""The local engine: stored items become batches, models predict, the best weights are kept."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pictures import numbers, pictures

from kdlib.errors import KdlibError
from kdlib.learning import client, engine
from kdlib.settings.experiment import make_experiment
from made import net, task


@pytest.fixture(scope="module")
def experiment():
    return make_experiment("digits", "feddf", 1.0, profile="smoke")


@pytest.fixture
def model():
    torch.manual_seed(0)
    return net("cnn2-4-6", task((12, 12)), 3)


def of(items, shape, **other):
    """An Experiment of items of one's own."""
    made = make_experiment("digits", "alone", profile="smoke", architectures=["cnn2-8-8"])
    return made.model_copy(update={"task": task(shape, items=items, **other)})


@pytest.mark.parametrize("shape", [(5, 4, 6), (5, 4, 6, 3)], ids=["grey", "colour"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_images_have_channels_last_in_memory_and_bytes_are_over_255(dtype, shape):
    x = np.random.default_rng(0).integers(256, size=shape).astype(dtype)
    found = engine.inputs(of("image", shape[1:]), torch.from_numpy(x))
    expected = np.moveaxis(x.reshape(5, 4, 6, -1), 3, 1) / np.float32(255 if dtype == np.uint8 else 1)
    assert found.dtype == torch.float32 and (found.numpy() == expected).all()
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("dtype", "becomes", "scale"), [
    (torch.int8, torch.int64, 1), (torch.int16, torch.int64, 1), (torch.int64, torch.int64, 1),
    (torch.float32, torch.float32, 1), (torch.float64, torch.float32, 1), (torch.uint8, torch.float32, 255),
])
@pytest.mark.parametrize(("items", "shape"), [("text", (7,)), ("other", (2, 3)), ("other", (1,))])
def test_what_an_item_becomes_is_decided_by_its_dtype_and_keeps_its_shape(items, shape, dtype, becomes, scale):
    x = torch.randint(100, (5, *shape), generator=torch.Generator().manual_seed(0)).to(dtype)
    found = engine.inputs(of(items, shape, vocabulary=100 if items == "text" else None), x)
    assert found.dtype == becomes
    torch.testing.assert_close(found, (x.double() / scale).to(becomes), rtol=0, atol=1e-7)


def test_batches_of_texts_are_characters():
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.integers(0, 82, (10, 5)).astype(np.int8))
    y = torch.from_numpy(rng.integers(0, 82, 10))
    seen = list(engine.Batches(make_experiment("shakespeare", "alone", profile="smoke"), x, y, 4, seed=0))
    assert [batch.dtype for batch, _ in seen] == [torch.int64] * 3
    rows = {tuple(row): label for row, label in zip(x.tolist(), y.tolist(), strict=True)}
    assert all(rows[tuple(row)] == label for batch, target in seen
               for row, label in zip(batch.tolist(), target.tolist(), strict=True))


@pytest.mark.parametrize(("items", "size", "sizes"), [
    (10, 4, [4, 4, 2]), (8, 4, [4, 4]), (9, 4, [4, 4]), (3, 8, [3]), (1, 8, [1]), (300, 128, [128, 128, 44]),
])
def test_an_epoch_has_every_item_once_but_for_a_last_batch_of_one(items, size, sizes, experiment):
    x, y = pictures(items)
    batches = engine.Batches(experiment, x, y, size, seed=3)
    for _ in range(2):
        epoch = list(batches)
        seen = [index for images, _ in epoch for index in numbers(images)]
        assert [len(target) for _, target in epoch] == sizes and len(batches) == len(sizes)
        assert len(set(seen)) == len(seen) == sum(sizes)
        assert all(target.tolist() == y[numbers(images)].tolist() for images, target in epoch)


def test_epochs_are_in_a_new_seeded_order(experiment):
    x, y = pictures(40)

    def two_epochs(seed):
        batches = engine.Batches(experiment, x, y, 8, seed)
        torch.rand(3)  # the global generator has no part in it
        return [[index for images, _ in batches for index in numbers(images)] for _ in range(2)]

    first, second = two_epochs(1)
    assert [first, second] == two_epochs(1) != two_epochs(2)
    assert first != second != list(range(40)) != first


@pytest.mark.parametrize(("scores", "looks", "best", "settings"), [
    ([1, 3, 2, 2.5, 9], 4, 1, {"patience": 2}),
    ([1, 3, 2, 4, 2, 2], 6, 3, {"patience": 2}),
    ([1, 2, 2, 2, 9], 4, 1, {"patience": 2}),  # of equals the earlier
    ([1, 1.05, 1.1, 1.15, 9], 3, 0, {"patience": 2, "min_delta": 0.3}),
    ([-math.inf, -2, -1], 3, 2, {"patience": 3}),
], ids=["stops", "goes on after a gain", "ties", "small gains", "rises"])
@pytest.mark.parametrize("every", [None, 2])
def test_the_best_weights_win_and_patience_ends_it(scores, looks, best, settings, every, model, experiment):
    script, seen = iter(scores), []

    def score(scored):
        seen.append({name: tensor.clone() for name, tensor in scored.state_dict().items()})
        return next(script)

    x, y = pictures(12)
    keep = engine.KeepBest(score, **settings, every=every)
    length = {"epochs": len(scores)} if every is None else {"steps": every * (len(scores) - 1)}
    batches = engine.Batches(experiment, x, y, 4, 0)
    metrics = client.fit(experiment, model, batches, F.cross_entropy, **length, keep=keep)
    assert len(seen) == metrics["scores"] == looks and metrics["best"] == scores[best]
    assert all(torch.equal(tensor, seen[best][name]) for name, tensor in model.state_dict().items())
    assert metrics["batches"] == (3 * looks if every is None else every * (looks - 1))


def test_with_every_the_start_is_scored_before_the_first_batch(model, experiment):
    counts = []
    norm = next(layer for layer in model.blocks if isinstance(layer, torch.nn.BatchNorm2d))
    keep = engine.KeepBest(lambda _: counts.append(int(norm.num_batches_tracked)) or 0.0, patience=99, every=3)
    x, y = pictures(12)
    client.fit(experiment, model, engine.Batches(experiment, x, y, 4, 0), F.cross_entropy, steps=8, keep=keep)
    assert counts == [0, 3, 6]


@pytest.mark.parametrize("items", [1, 127, 300])
def test_predict_is_a_plain_evaluation(items, model, experiment):
    x, y = pictures(items)
    for training in (True, False):
        model.train(training)
        found = engine.predict(experiment, model, x)
        assert model.training == training
    with torch.no_grad():
        expected = torch.cat([model(image[None, None] / 255) for image in x])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert engine.accuracy(experiment, model, x, y) == pytest.approx(float((expected.argmax(1) == y).double().mean()))
    by_hand = -torch.log(expected.softmax(1)[range(items), y]).mean()
    assert engine.cross_entropy(experiment, model, x, y) == pytest.approx(float(by_hand), rel=1e-4)


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_refused_in_one_line(name, monkeypatch, experiment, model):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    elsewhere = experiment.model_copy(update={"device": name})
    for ask in (lambda: engine.expect_device(name), lambda: engine.placed(elsewhere, model),
                lambda: client.start(elsewhere, "client-0000")):
        with pytest.raises(KdlibError, match=f"device {name}: this machine has none that PyTorch can use; allowed "
                                             "here: cpu$"):
            ask()
    assert engine.placed(experiment, model) is model
