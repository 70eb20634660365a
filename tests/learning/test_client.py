import itertools
import math
import os
import signal

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kdlib.learning import client, engine
from kdlib.learning.models import Dropout, build
from kdlib.settings.experiment import make_experiment


@pytest.fixture(scope="module")
def experiment():
    return make_experiment("digits", "feddf", 1.0, profile="smoke")


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build("cnn2-4-6", (1, 12, 12), 3, batch_norm_momentum=0.1)


def pictures(n, seed=0):
    """uint8 (n, 12, 12), each told by its first two pixels, and a label of three."""
    x = torch.from_numpy(np.random.default_rng(seed).integers(256, size=(n, 12, 12)).astype(np.uint8))
    x[:, 0, 0], x[:, 0, 1] = torch.arange(n) % 256, torch.arange(n) // 256
    return x, torch.arange(n) % 3


def number(batch):
    """Which pictures a batch has."""
    first, second = (batch[:, 0, 0, column] * 255 for column in (0, 1))
    return (first.round() + 256 * second.round()).long().tolist()


@pytest.mark.parametrize("shape", [(5, 4, 6), (5, 4, 6, 3)], ids=["grey", "colour"])
def test_images_are_pixels_over_255_with_channels_last_in_memory(shape):
    x = np.random.default_rng(0).integers(256, size=shape).astype(np.uint8)
    found = engine.images(torch.from_numpy(x))
    expected = np.moveaxis(x.reshape(5, 4, 6, -1), 3, 1) / np.float32(255)
    assert found.dtype == torch.float32 and (found.numpy() == expected).all()
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("items", "size", "sizes"), [
    (10, 4, [4, 4, 2]), (8, 4, [4, 4]), (9, 4, [4, 4]), (3, 8, [3]), (1, 8, [1]), (300, 128, [128, 128, 44]),
])
def test_an_epoch_has_every_item_once_but_for_a_last_batch_of_one(items, size, sizes):
    x, y = pictures(items)
    batches = engine.Batches(x, y, size, seed=3)
    for _ in range(2):
        epoch = list(batches)
        seen = [index for images, _ in epoch for index in number(images)]
        assert [len(target) for _, target in epoch] == sizes and len(batches) == len(sizes)
        assert len(set(seen)) == len(seen) == sum(sizes)
        assert all(target.tolist() == y[number(images)].tolist() for images, target in epoch)


def test_epochs_are_in_a_new_seeded_order():
    x, y = pictures(40)

    def two_epochs(seed):
        batches = engine.Batches(x, y, 8, seed)
        torch.rand(3)  # the global generator has no part in it
        return [[index for images, _ in batches for index in number(images)] for _ in range(2)]

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
    metrics = client.train(experiment, model, engine.Batches(x, y, 4, 0), F.cross_entropy, **length, keep=keep)
    assert len(seen) == metrics["scores"] == looks and metrics["best"] == scores[best]
    assert all(torch.equal(tensor, seen[best][name]) for name, tensor in model.state_dict().items())
    assert metrics["batches"] == (3 * looks if every is None else every * (looks - 1))


def test_with_every_the_start_is_scored_before_the_first_batch(model, experiment):
    counts = []
    norm = next(layer for layer in model.blocks if isinstance(layer, torch.nn.BatchNorm2d))
    keep = engine.KeepBest(lambda _: counts.append(int(norm.num_batches_tracked)) or 0.0, patience=99, every=3)
    x, y = pictures(12)
    client.train(experiment, model, engine.Batches(x, y, 4, 0), F.cross_entropy, steps=8, keep=keep)
    assert counts == [0, 3, 6]


def adam_by_hand(model, batches, steps, rate=1e-3):
    """Adam (Kingma and Ba, 2015) on cross-entropy and the penalty, in float64."""
    moments = {name: (0.0, 0.0) for name, _ in model.named_parameters()}
    for step, (x, y) in enumerate(itertools.islice(batches, steps), 1):
        model.zero_grad()
        (F.cross_entropy(model(x), y) + 1e-3 * (model.linear.weight**2).sum()).backward()
        for name, parameter in model.named_parameters():
            gradient = parameter.grad.double()
            m, v = moments[name]
            moments[name] = m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
            update = rate * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-7)
            parameter.data.copy_(parameter.double() - update)


def test_train_makes_adams_steps(model, experiment):
    for index, layer in enumerate(model.blocks):
        if isinstance(layer, Dropout):
            model.blocks[index] = torch.nn.Identity()
    other = build("cnn2-4-6", (1, 12, 12), 3, batch_norm_momentum=0.1)
    other.blocks = torch.nn.Sequential(*(torch.nn.Identity() if isinstance(layer, Dropout) else layer
                                         for layer in other.blocks))
    other.load_state_dict(model.state_dict())
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    x, y = pictures(24)
    metrics = client.train(experiment, model, engine.Batches(x, y, 8, seed=5), F.cross_entropy, epochs=1)
    adam_by_hand(other, engine.Batches(x, y, 8, seed=5), steps=3)
    assert (metrics["batches"], metrics["items"]) == (3, 24)
    for name, parameter in other.named_parameters():
        if name.startswith("blocks") and name.endswith("bias") and before[name.replace("bias", "weight")].ndim == 4:
            continue  # no gradient but rounding noise reaches a bias before batch norm
        torch.testing.assert_close(dict(model.named_parameters())[name], parameter, rtol=0, atol=1e-5)
        assert (parameter - before[name]).abs().max() > 1e-3, "nothing was learnt, so nothing is shown"


def test_steps_run_over_as_many_epochs_as_they_need(model, experiment):
    x, y = pictures(12)
    metrics = client.train(experiment, model, engine.Batches(x, y, 4, 0), F.cross_entropy, steps=7)
    assert metrics["batches"] == 7


def test_train_reports_the_mean_loss_with_the_penalty(model, experiment):
    x, y = pictures(12)
    with torch.no_grad():
        model.linear.weight.zero_()
    metrics = client.train(experiment, model, engine.Batches(x, y, 12, 0), lambda logits, _: logits.sum() * 0 + 5.0,
                           epochs=2)
    assert metrics == {"loss": 5.0, "batches": 2, "items": 12}


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


def test_mean_is_summed_in_float64_in_the_given_order():
    large, one = torch.tensor([1e8]), torch.tensor([1.0])
    assert float(client.mean([large, one, -large])) == pytest.approx(1 / 3)  # float32 would lose the one
    huge, one = torch.tensor([1e17], dtype=torch.float64), one.double()
    assert float(client.mean([huge, one, -huge])) == 0 != float(client.mean([huge, -huge, one]))


def test_mean_is_weighted_and_keeps_the_type():
    tensors = [torch.tensor([1.0, 2.0]), torch.tensor([5.0, 10.0])]
    assert client.mean(tensors, [3, 1]).tolist() == [2.0, 4.0] and client.mean(tensors).tolist() == [3.0, 6.0]
    counts = client.mean([torch.tensor(4), torch.tensor(6)])
    assert counts.dtype == torch.int64 and counts.item() == 5 and client.mean(tensors).dtype == torch.float32
    with pytest.raises(ValueError, match="zip"):
        client.mean(tensors, [1.0])


def test_a_start_is_the_architectures_and_leaves_the_global_generator_alone(experiment):
    first, _, third = experiment.architectures
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    weights = [client.start(experiment, subject).linear.weight for subject in (first, "client-0000", "client-0003")]
    assert torch.equal(torch.rand(4), expected)
    assert all(torch.equal(weights[0], other) for other in weights[1:])
    other_seed = client.start(experiment.model_copy(update={"seed": 1}), first).linear.weight
    assert not torch.equal(other_seed, weights[0])
    assert client.start(experiment, third).linear.weight.shape != weights[0].shape


def test_the_alignment_sample_is_drawn_by_round_and_capped(experiment):
    first, same, second = (client.alignment(experiment, round_, 1000).tolist() for round_ in (1, 1, 2))
    assert first == same != second
    assert len(set(first)) == len(first) == experiment.alignment_items and set(first) <= set(range(1000))
    assert sorted(client.alignment(experiment, 1, 50).tolist()) == list(range(50))


def test_an_interrupt_that_an_import_would_swallow_is_raised_after_it():
    seen = []
    with pytest.raises(KeyboardInterrupt), client.interrupts_wait():
        try:
            os.kill(os.getpid(), signal.SIGINT)
            seen.append("the import went on")
        except BaseException:  # what some packages do around an import of theirs
            seen.append("swallowed")
    assert seen == ["the import went on"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler
