"""Laws that FedMD and FedDF share, and the oracle of both: a plain training loop without Lightning.

A law takes finished runs, none of whose objects were swept, and raises AssertionError where it is broken.
"""

import itertools
import math

import numpy as np
import torch

from kdlib.learning import client
from kdlib.runs import runner


def phases(run, once, in_round):
    """Steps ran in PAPER's order, phase by phase, and in each phase nobody was missing or called twice.

    once: phases as (name, subjects); in_round: round -> such phases.
    """
    expected = [(name, 0, sorted(subjects)) for name, subjects in once]
    for round_ in rounds(run):
        expected += [(name, round_, sorted(subjects)) for name, subjects in in_round(round_)]
    ran = sorted(run.records(), key=lambda record: record.started)
    grouped = itertools.groupby(ran, key=lambda record: (record.step, record.round))
    found = [(*phase, sorted(record.subject for record in records)) for phase, records in grouped]
    assert found == expected, "the phases are not in PAPER's order"


def parts(run):
    """Clients' parts have the given size; no item is in two of them, nor in one and in the validation data."""
    held = [run.store.get(f"private/{name}/data")["x"] for name in run.experiment.client_names]
    assert {len(x) for x in held} == {run.experiment.samples}, "a part has another size"
    validation = run.store.get("aggregator/validation")["x"]
    images = [image.numpy().tobytes() for x in [*held, validation] for image in x]
    assert len(set(images)) == len(images), "two parts share an item"


def no_test_label_decides(run, relabelled):
    """With all test labels altered the metrics differ, and every other stored byte is the same."""
    names = run.store.names()
    assert names == relabelled.store.names()
    before, after = (metrics(of, "evaluate") for of in (run, relabelled))
    assert before != after, "the altered labels changed no metric, so nothing is shown"
    changed = [name for name in names if run.store.content(name) != relabelled.store.content(name)]
    assert changed == [name for name in names if name.endswith("/test")] != [], "a test label reached a decision"


def metrics(run, name, round_=None):
    """(round, subject) -> metrics of all the Steps of that name, or of one round's."""
    return {(step.round, step.subject): part.metrics for record in run.records() for step, part in record.done.items()
            if step.name == name and round_ in (None, step.round)}


def sample_rows(run, round_, weights):
    """The public rows of the round's sample, found among all public images by the first client's logits.

    weights: client -> name of the weights that predicted its logits.
    """
    first = _predicted(run, round_)[0]
    stored = run.store.get(f"{first}/{round_:03}/logits")["logits"]
    return torch.cdist(stored, logits(run, first, weights(first), run.store.get("public/data")["x"])).argmin(1)


def one_sample(run, round_, weights):
    """All the round's logits are of one sample of distinct public images in one order; returns its rows."""
    rows = sample_rows(run, round_, weights)
    assert len(set(rows.tolist())) == len(rows) == run.experiment.alignment_items, "an image is in the sample twice"
    x = run.store.get("public/data")["x"][rows]
    for name in _predicted(run, round_):
        close(run.store.get(f"{name}/{round_:03}/logits")["logits"], logits(run, name, weights(name), x),
              f"{name} did not predict the sample in the first client's order")
    return rows


def _predicted(run, round_):
    """The clients whose logits the round has, sorted."""
    return [name.split("/")[0] for name in run.store.names() if name.endswith(f"/{round_:03}/logits")]


def overlapping_parts(patch):
    """A fault: two clients hold the same items."""
    _alter_parts(patch, lambda parts: [parts[1], *parts[1:]])


def smaller_part(patch):
    """A fault for `parts`, and the way to different numbers of samples: the first client holds a third."""
    _alter_parts(patch, lambda parts: [parts[0][::3], *parts[1:]])


def _alter_parts(patch, alter):
    partition = runner.partition
    patch.setattr(runner, "partition", lambda *args: (p := partition(*args))._replace(parts=alter(p.parts)))


def leak(patch, where):
    """A fault: test items with their labels take the place of the `private` or the `validation` data."""
    deploy = runner.deploy
    patch.setattr(runner, "deploy", lambda experiment, drawn, store: deploy(
        experiment, drawn._replace(**{where: drawn.test}), store))


def rounds(run):
    """1, 2 ... as many as the run has."""
    return range(1, run.experiment.rounds + 1)


def privately(run, round_, name, start, count, step):
    """The weights after `count` epochs of a plain loop on the client's part, from those stored as `start`."""
    own = run.store.get(f"private/{name}/data")
    order = run.experiment.entropy(round_, name, f"{step}/order")
    return fit(load(run, name, start), cross_entropy, epochs(own["x"], own["y"], run.experiment.batch, order),
               count * math.ceil(len(own["y"]) / run.experiment.batch), run.experiment.entropy(round_, name, step))


def pixels(x):
    """uint8 (N, H, W) -> float32 (N, 1, H, W) in 0-1."""
    return x[:, None].float() / 255


def logits(run, subject, weights, x):
    """A plain evaluation of stored weights on uint8 images."""
    return evaluated(load(run, subject, weights), x)


def load(run, subject, weights):
    """The subject's architecture with stored weights, or at its random start where `weights` is None."""
    model = client.start(run.experiment, subject)
    if weights:
        model.load_state_dict(run.store.get(weights))
    return model


def evaluated(model, x):
    """The model's logits of uint8 images in evaluation mode."""
    model.eval()
    with torch.no_grad():
        return model(pixels(x))


def accuracy(model, held):
    """The share of held["x"] that the model puts into its class."""
    return float((evaluated(model, held["x"]).argmax(1) == held["y"]).double().mean())


def cross_entropy(logits, y):
    """-log softmax(logits) at y, the batch's mean."""
    return (logits.logsumexp(1) - logits[range(len(y)), y]).mean()


def epochs(x, target, size, seed):
    """Batches of seeded epochs without end."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        for rows in torch.randperm(len(x), generator=generator).split(size):
            yield pixels(x[rows]), target[rows]


def fit(model, loss, batches, steps, seed):
    """The weights after `steps` of Adam on loss + 1e-3 |w|^2 of the last layer; dropout draws from `seed`."""
    adam = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-7)
    torch.manual_seed(seed)
    model.train()
    for x, target in itertools.islice(batches, steps):
        adam.zero_grad()
        (loss(model(x), target) + 1e-3 * (model.linear.weight**2).sum()).backward()
        adam.step()
    return model.state_dict()


def mean(arrays, weights=None):
    """The (weighted) mean in float64."""
    return np.average(np.stack([np.asarray(array, np.float64) for array in arrays]), axis=0, weights=weights)


def close(found, expected, broken):
    """Equal up to what another order of sums does to float32."""
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=1e-4, atol=1e-4, err_msg=broken)


def close_weights(found, expected, broken):
    """Two models lie less than a third of one Adam step apart (rms); a wrong loss, start or order is whole steps off.

    A bias before batch norm has no gradient but rounding noise, which Adam makes as large as any: it goes uncompared,
    and the running mean, which follows it, too.
    """
    assert found.keys() == expected.keys()
    compared = [name for name in expected
                if not name.endswith("running_mean") and not (name.endswith("bias") and _convolves(expected, name))]
    apart = torch.cat([(found[name] - expected[name]).double().flatten() for name in compared])
    assert apart.square().mean().sqrt() < 3e-4, broken


def _convolves(weights, bias):
    return weights[bias.replace("bias", "weight")].ndim == 4
