"""The training loop against one written out by hand: batches, losses, and each optimizer's own rule."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from pictures import pictures

from kdlib.learning import client, engine
from kdlib.learning.layers import ReLUDropout
from kdlib.learning.models import penalty
from kdlib.learning.training import make_optimizer
from kdlib.settings.experiment import make_experiment
from made import net, task


@pytest.fixture(scope="module")
def experiment():
    return make_experiment("digits", "feddf", 1.0, profile="smoke")


@pytest.fixture
def model():
    torch.manual_seed(0)
    return net("cnn2-4-6", task((12, 12)), 3)


def adam(gradient, state, step):
    """Kingma and Ba, 2015, with Keras's epsilon."""
    m, v = state or (0.0, 0.0)
    m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
    return m / (1 - 0.9**step) / ((v / (1 - 0.999**step)).sqrt() + 1e-7), (m, v)


def rmsprop(gradient, state, step):
    """Hinton, 2012, as Keras has it."""
    v = 0.9 * (0.0 if state is None else state) + 0.1 * gradient**2
    return gradient / (v.sqrt() + 1e-7), v


def sgd(gradient, state, step):
    return gradient, None


RULES = {"adam": (adam, 1e-3), "rmsprop": (rmsprop, 1e-3), "sgd": (sgd, 0.1)}


def by_hand(rule, rate, model, batches, steps):
    """So many steps on cross-entropy and the penalty, in float64."""
    states = dict.fromkeys(name for name, _ in model.named_parameters())
    for step, (x, y) in enumerate(itertools.islice(batches, steps), 1):
        model.zero_grad()
        (F.cross_entropy(model(x), y) + 1e-3 * (model.linear.weight**2).sum()).backward()
        for name, parameter in model.named_parameters():
            update, states[name] = rule(parameter.grad.double(), states[name], step)
            parameter.data.copy_(parameter.double() - rate * update)


def still(seed=0):
    """A network without dropout."""
    model = net("cnn2-4-6", task((12, 12)), 3, seed=seed)
    model.blocks = torch.nn.Sequential(*(torch.nn.ReLU() if isinstance(layer, ReLUDropout) else layer
                                         for layer in model.blocks))
    return model


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("name", RULES)
def test_fit_makes_the_chosen_optimizers_steps(name, steps, experiment):
    rule, rate = RULES[name]
    experiment = experiment.model_copy(update={"optimizer": name, "learning_rate": rate})
    model, other = still(), still()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    x, y = pictures(24)
    metrics = client.fit(experiment, model, engine.Batches(experiment, x, y, 8, seed=5), F.cross_entropy, steps=steps)
    by_hand(rule, rate, other, engine.Batches(experiment, x, y, 8, seed=5), steps)
    assert (metrics["batches"], metrics["items"]) == (steps, 24)
    for name, parameter in other.named_parameters():
        if name.startswith("blocks") and name.endswith("bias") and before[name.replace("bias", "weight")].ndim == 4:
            continue  # no gradient but rounding noise reaches a bias before batch norm
        torch.testing.assert_close(dict(model.named_parameters())[name], parameter, rtol=0, atol=1e-5)
        assert (parameter - before[name]).abs().max() > 5e-4, "nothing was learnt, so nothing is shown"


def test_each_optimizer_ends_elsewhere(experiment):
    x, y = pictures(24)
    ends = []
    for name in RULES:
        chosen = experiment.model_copy(update={"optimizer": name})
        model = still()
        client.fit(chosen, model, engine.Batches(chosen, x, y, 8, seed=5), F.cross_entropy, epochs=1)
        ends.append(model.linear.weight.detach())
    assert all((one - other).abs().max() > 1e-4 for one, other in itertools.combinations(ends, 2))


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("rmsprop", torch.optim.RMSprop),
                                            ("sgd", torch.optim.SGD)])
def test_a_step_begins_with_a_new_optimizer_at_the_experiments_rate(name, kind, experiment, model):
    made = make_optimizer(experiment.model_copy(update={"optimizer": name, "learning_rate": 0.05}), model)
    (group,) = made.param_groups
    assert type(made) is kind and group["lr"] == 0.05 and not made.state
    assert {id(weight) for weight in group["params"]} == {id(weight) for weight in model.parameters()}


def test_steps_run_over_as_many_epochs_as_they_need(model, experiment):
    x, y = pictures(12)
    metrics = client.fit(experiment, model, engine.Batches(experiment, x, y, 4, 0), F.cross_entropy, steps=7)
    assert metrics["batches"] == 7


def test_train_reports_the_mean_loss_with_the_penalty(model, experiment):
    x, y = pictures(12)
    with torch.no_grad():
        model.linear.weight.zero_()
    metrics = client.fit(experiment, model, engine.Batches(experiment, x, y, 12, 0),
                         lambda logits, _: logits.sum() * 0 + 5.0, epochs=2)
    assert metrics == {"loss": 5.0, "batches": 2, "items": 12}


def test_a_network_without_a_penalty_of_its_own_has_none(experiment):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(144, 3))
    x, y = pictures(12)
    metrics = client.fit(experiment, model, engine.Batches(experiment, x, y, 12, 0),
                         lambda logits, _: logits.sum() * 0 + 5.0, epochs=1)
    assert metrics["loss"] == 5.0 and penalty(model) == 0.0
