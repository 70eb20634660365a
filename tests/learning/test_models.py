"""Models of an Experiment: their start, and what is refused before anything is trained."""

import pytest
import torch

from kdlib.errors import KdlibError
from kdlib.learning.models import blank, expect_fit, penalty, start, work
from kdlib.registry import NETWORKS
from kdlib.settings.experiment import make_experiment
from made import task


@pytest.fixture(scope="module")
def experiment():
    return make_experiment("digits", "feddf", 1.0, profile="smoke")


def test_a_start_is_the_architectures_and_leaves_the_global_generator_alone(experiment):
    first, _, third = experiment.architectures
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    weights = [start(experiment, subject).linear.weight for subject in (first, "client-0000", "client-0003")]
    assert torch.equal(torch.rand(4), expected)
    assert all(torch.equal(weights[0], other) for other in weights[1:])
    other_seed = start(experiment.model_copy(update={"seed": 1}), first).linear.weight
    assert not torch.equal(other_seed, weights[0])
    assert start(experiment, third).linear.weight.shape != weights[0].shape


@pytest.mark.parametrize("architecture", ["cnn2-8-8", "resnet8"])
def test_every_batch_norm_has_the_experiments_momentum(architecture, experiment):
    for momentum in (0.3, 0.01):
        model = start(experiment.model_copy(update={"architectures": (architecture,), "batch_norm_momentum": momentum}),
                      architecture)
        norms = [layer for layer in model.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
        assert len(norms) > 1 and {layer.momentum for layer in norms} == {momentum}


def test_a_penalty_is_the_networks_own_or_none(experiment):
    model = start(experiment, "client-0000")
    assert torch.equal(penalty(model), model.penalty()) and penalty(torch.nn.Linear(2, 3)) == 0.0


@pytest.mark.parametrize(("items", "shape", "dtype"), [("image", (4, 5), torch.uint8), ("text", (7,), torch.int64),
                                                       ("other", (2, 2, 2), torch.float32)])
def test_blank_items_are_of_the_tasks_kind(items, shape, dtype, experiment):
    own = task(shape, items=items, vocabulary=9 if items == "text" else None)
    found = blank(experiment.model_copy(update={"task": own}), 3)
    assert found.dtype == dtype and found.shape == (3, *shape) and not found.any()


@pytest.mark.parametrize(("of_task", "architectures"), [
    ("digits", ("cnn2-8-8", "cnn3-8-8-8", "cnn4-8-8-8-8", "resnet8", "resnet20")),
    ("shakespeare", ("lstm1-8", "lstm2-8", "transformer2-8")),
])
def test_kdlibs_own_fit_and_nothing_is_drawn_for_it(of_task, architectures):
    made = make_experiment(of_task, "alone", profile="smoke", clients=6, architectures=architectures)
    state = torch.random.get_rng_state()
    expect_fit(made)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_an_image_too_small_is_refused():
    small = task((2, 2))
    made = make_experiment(small, "alone", profile="smoke", architectures=["cnn2-8-8"])
    with pytest.raises(KdlibError, match=r"architecture cnn2-8-8 does not fit task own \(items \[2, 2\], 3 classes\): "
                                         "images of 2 x 2 are too small: a 3 x 3 window meets 2 x 2; allowed: larger"):
        expect_fit(made)


NETS = """
import torch
from torch import nn

def flat(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, classes))

def few(task, classes, width, generator):
    return flat(classes - 1)

def maps(task, classes, width, generator):
    return nn.Identity()

def numbers(task, classes, width, generator):
    class Numbers(nn.Sequential):
        def forward(self, x):
            return super().forward(x).argmax(1, keepdim=True).expand(-1, classes)
    return Numbers(*flat(classes))

def unbuilt(task, classes, width, generator):
    raise RuntimeError("no\\nmemory  for it")

def unread(task, classes, width, generator):
    return nn.Sequential(nn.Linear(5, classes))

def nothing(task, classes, width, generator):
    return None

def factory(classes, more):
    return flat(classes)

def lazy(task, classes, width, generator):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))

class Aided(nn.Module):
    def __init__(self, num_classes=1000):
        super().__init__()
        self.flat = flat(num_classes)

    def forward(self, x):
        return (self.flat(x), self.flat(x)) if self.training else self.flat(x)

class Tied(nn.Module):
    def __init__(self, num_classes=1000):
        super().__init__()
        self.flat = flat(num_classes)
        self.again = self.flat[1]

    def forward(self, x):
        return self.flat(x)

class Counting(Tied):
    def state_dict(self, *arguments, **options):
        return {"calls": 5}

def like_torchvision(*, weights=None, progress=True, **kwargs):
    return flat(**{"classes": kwargs["num_classes"]})

def like_a_class(num_classes=1000, a=1, b=2, c=3, d=4):
    assert (a, b, c, d) == (1, 2, 3, 4)
    return flat(num_classes)

def noisy(num_classes):
    made = flat(num_classes)
    with torch.no_grad():
        made[1].weight.add_(torch.rand_like(made[1].weight))
    return made
"""


def of_nets(plugin, name, **settings):
    plugin("nets", NETS)
    return make_experiment("digits", "feddf", profile="smoke", architectures=[f"nets:{name}"], **settings)


@pytest.mark.parametrize(("name", "says"), [
    ("few", r"of two items it makes torch\.float32 \[2, 5\], not logits \[2, 6\]"),
    ("maps", r"of two items it makes torch\.float32 \[2, 1, 28, 28\], not logits \[2, 6\]"),
    ("numbers", r"of two items it makes torch\.int64 \[2, 6\], not logits \[2, 6\]"),
    ("Aided", r"of two items it makes a tuple, not logits \[2, 6\]"),
    ("unbuilt", "RuntimeError: no memory for it"),
    ("unread", "RuntimeError: mat1 and mat2 shapes cannot be multiplied"),
    ("nothing", r"it makes a NoneType; it must make a torch\.nn\.Module"),
    ("factory", "TypeError: factory.. got an unexpected keyword argument 'num_classes'"),
    ("lazy", "it has a lazy layer; allowed: layers of sizes that the task gives"),
    ("Tied", "its weights cannot be stored: .*share memory"),
    ("Counting", "its weights cannot be stored: 'int' object has no attribute 'contiguous'"),
])
def test_a_network_that_does_not_fit_is_refused_in_one_line(name, says, plugin):
    with pytest.raises(KdlibError, match=rf"architecture nets:{name} does not fit task digits \(items \[28, 28\], 6 "
                                         rf"classes\): {says}") as error:
        expect_fit(of_nets(plugin, name))
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize("name", ["like_torchvision", "like_a_class", "noisy"])
def test_a_factory_that_takes_a_number_of_classes_is_a_network(name, plugin):
    made = of_nets(plugin, name)
    expect_fit(made)
    torch.manual_seed(1)
    first = start(made, "client-0000")
    torch.manual_seed(2)
    same, other = start(made, "client-0001"), start(made.model_copy(update={"seed": 1}), "client-0000")
    assert first[1].out_features == made.classes == 6
    assert torch.equal(first[1].weight, same[1].weight), "it draws from PyTorch's global generator, seeded for it"
    assert not torch.equal(first[1].weight, other[1].weight)
    assert work(made, f"nets:{name}") == 28 * 28 * 6


def test_work_is_counted_of_ones_own_items_too(plugin):
    NETWORKS.register("flat", lambda task, classes, width, generator: torch.nn.Linear(task.shape[0], classes))
    made = make_experiment(task((7,), items="other"), "alone", profile="smoke", architectures=["flat"])
    expect_fit(made)
    assert work(made, "flat") == 7 * 3
