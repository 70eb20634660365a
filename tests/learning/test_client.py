"""What a client does whatever the strategy: means, the alignment sample, and imports that outlast an interrupt."""

import math
import os
import signal

import pytest
import torch

from kdlib.learning import client
from kdlib.settings.experiment import make_experiment
from kdlib.store.store import Store


@pytest.fixture(scope="module")
def experiment():
    return make_experiment("digits", "feddf", 1.0, profile="smoke")


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


def test_the_alignment_sample_is_drawn_by_round_and_capped(experiment):
    first, same, second = (client.alignment_rows(experiment, round_, 1000).tolist() for round_ in (1, 1, 2))
    assert first == same != second
    assert len(set(first)) == len(first) == experiment.alignment_items and set(first) <= set(range(1000))
    assert sorted(client.alignment_rows(experiment, 1, 50).tolist()) == list(range(50))


@pytest.mark.parametrize(("factor", "diverges"), [(1, False), (1e38, True)])
def test_an_accuracy_of_answers_that_are_no_numbers_comes_with_a_loss_that_is_none(factor, diverges, experiment,
                                                                                   tmp_path):
    """Weights that are finite, and so large that what follows from them is not."""
    store, name = Store(tmp_path), "public/001/cnn2-128-256"
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(256, (20, 28, 28), dtype=torch.uint8, generator=generator)
    store.put("public/test", {"x": x, "y": torch.zeros(20, dtype=torch.int64)})
    model = client.start(experiment, "cnn2-128-256")
    store.put(name, {key: tensor * factor if tensor.ndim > 1 else tensor for key, tensor in model.state_dict().items()})
    found = client.test_accuracy(experiment, store, "cnn2-128-256", name)
    assert 0 <= found["accuracy"] <= 1 and found["items"] == 20
    assert math.isnan(found.get("loss", 0.0)) == diverges == ("loss" in found)


def test_an_interrupt_that_an_import_would_swallow_is_raised_after_it():
    seen = []
    with pytest.raises(KeyboardInterrupt), client.interrupts_wait():  # noqa: PT012  # it is raised by the end of it
        try:
            os.kill(os.getpid(), signal.SIGINT)
            seen.append("the import went on")
        except BaseException:  # what some packages do around an import of theirs
            seen.append("swallowed")
    assert seen == ["the import went on"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler
