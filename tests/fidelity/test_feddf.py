"""FedDF's laws (PAPER: FedDF, serverless) on a real run's objects, and each on a run with its fault planted."""

import itertools

import laws
import numpy as np
import pytest
import torch

import altered
from kdlib.learning import client
from kdlib.strategies import fedavg, feddf

# Two of an architecture's three clients are called in a round.
SMALL = {"clients": 9, "clients_per_round": 6, "rounds": 2, "samples": 60, "patience": 2}
TINY = SMALL | {"clients": 6, "rounds": 1, "local_epochs": 1, "distil_batches": 10, "score_every": 2,
                "public_items": 200, "alignment_items": 128, "distil_batch": 64, "test_items": 100}


@pytest.fixture(scope="module")
def clean(smoke):
    return smoke("feddf", keep=True, **SMALL)


def phase_order(the_run):
    def in_round(round_):
        chosen = _chosen(the_run, round_)
        assert len(chosen) == the_run.experiment.clients_per_round
        architectures = the_run.experiment.architectures
        return [("train", chosen), ("teach", ["server"]), ("distil", architectures), ("evaluate", architectures)]

    laws.phases(the_run, [], in_round)


def train_goes_on_from_the_distilled(the_run):
    """A client's weights are those of a plain loop on its own part, from its architecture's distilled weights."""
    for round_ in laws.rounds(the_run):
        for name in _chosen(the_run, round_):
            start = f"public/{round_ - 1:03}/{the_run.experiment.architecture_of(name)}" if round_ > 1 else None
            expected = laws.privately(the_run, round_, name, start, the_run.experiment.local_epochs, "train")
            laws.close_weights(the_run.store.get(f"{name}/{round_:03}/weights"), expected,
                               f"{name} did not train from its architecture's current weights")


def one_sample_for_all(the_run):
    """The round's clients predict one sample in one order, with the weights they have just trained."""
    samples = {frozenset(laws.one_sample(the_run, round_, lambda name, r=round_: f"{name}/{r:03}/weights").tolist())
               for round_ in laws.rounds(the_run)}
    assert len(samples) == the_run.experiment.rounds, "the sample is not drawn anew each round"


def teacher_is_the_mean_over_all(the_run):
    """z = 1/C sum_c z_c over ALL the round's clients, of every architecture."""
    for round_ in laws.rounds(the_run):
        laws.close(the_run.store.get(f"public/{round_:03}/teacher")["logits"], _teacher(the_run, round_),
                   "the teacher is not the mean over the round's clients")


def student_starts_at_the_weighted_average(the_run):
    """Of a run whose only score is that of the start: it won, and is sum_c n_c w_c / sum_c n_c."""
    sizes = {len(the_run.store.get(f"private/{name}/data")["y"]) for name in the_run.experiment.client_names}
    assert len(sizes) > 1 and {done["scores"] for done in laws.metrics(the_run, "distil", 1).values()} == {1}
    for architecture in the_run.experiment.architectures:
        student, average = the_run.store.get(f"public/001/{architecture}"), _average(the_run, 1, architecture)
        for name in student:
            laws.close(student[name], average[name].astype(student[name].numpy().dtype),
                       f"{architecture} does not start at the weighted average: {name}")


def student_learns_the_teacher(the_run):
    """Of a run whose scores all rise: the last student is that of a plain loop on KL(softmax(z) || softmax(f(x)))."""
    experiment = the_run.experiment

    def loss(logits, z):
        log_p, log_q = z.log_softmax(1), logits.log_softmax(1)
        return (log_p.exp() * (log_p - log_q)).sum(1).mean()

    for round_ in laws.rounds(the_run):
        rows = laws.sample_rows(the_run, round_, lambda name, r=round_: f"{name}/{r:03}/weights")
        x, teacher = the_run.store.get("public/data")["x"][rows], torch.from_numpy(_teacher(the_run, round_)).float()
        for architecture in experiment.architectures:
            order = experiment.entropy(round_, architecture, "distil/order")
            expected = laws.fit(_averaged_start(the_run, round_, architecture), loss,
                                laws.epochs(x, teacher, experiment.distil_batch, order), experiment.distil_batches,
                                experiment.entropy(round_, architecture, "distil"))
            laws.close_weights(the_run.store.get(f"public/{round_:03}/{architecture}"), expected,
                               f"{architecture} did not learn the teacher of all clients by the forward KL")


def best_weights_win(the_run):
    """The stored student scores on the validation data what the best score says, and no less than its start."""
    held = the_run.store.get("aggregator/validation")
    for round_ in laws.rounds(the_run):
        distilled = laws.metrics(the_run, "distil", round_)
        assert {subject for _, subject in distilled} == set(the_run.experiment.architectures)
        for (_, architecture), done in distilled.items():
            model = laws.load(the_run, architecture, f"public/{round_:03}/{architecture}")
            assert laws.accuracy(model, held) == pytest.approx(done["best"]), "the best weights did not win"
            start = _averaged_start(the_run, round_, architecture)
            assert done["best"] >= laws.accuracy(start, held) - 1e-6, "the start was better"


LAWS = (phase_order, laws.parts, train_goes_on_from_the_distilled, one_sample_for_all, teacher_is_the_mean_over_all,
        best_weights_win)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_law(law, clean):
    law(clean)


def only_the_start_is_scored(patch):
    """So the start itself is what distil stores; the first client's number of samples is another."""
    laws.smaller_part(patch)
    return {"distil_batches": 1, "score_every": 2}


def every_score_is_a_gain(patch):
    """So the last weights win, and the whole way from the start is seen."""
    rising = itertools.count()
    patch.setattr(feddf, "accuracy", lambda *_: float(next(rising)))


@pytest.mark.parametrize(("prepare", "law"), [
    (only_the_start_is_scored, student_starts_at_the_weighted_average),
    (every_score_is_a_gain, student_learns_the_teacher),
])
def test_law_of_the_student(prepare, law, smoke, monkeypatch):
    settings = TINY | (prepare(monkeypatch) or {})
    law(smoke("feddf", keep=True, **settings))


def evaluate_after_the_next_round_began(patch):
    workflow = feddf.workflow

    def swapped(*arguments):
        stages = list(workflow(*arguments))
        stages[3], stages[4] = stages[4], stages[3]
        return stages

    altered.declare(patch, "feddf", workflow=swapped)
    return {"rounds": 2}


def goes_on_from_own_weights(patch):
    train_locally = fedavg.train_locally

    def own(experiment, store, round_, name):
        with pytest.MonkeyPatch.context() as within:
            if round_ > 1:
                weights = client.load(experiment, store, name, f"{name}/{round_ - 1:03}/weights")
                within.setattr(fedavg, "current", lambda *_: weights)
            return train_locally(experiment, store, round_, name)

    patch.setattr(feddf, "train_locally", own)
    return {"rounds": 2}


def sample_of_its_own(patch):
    rows, turn = client.alignment_rows, iter(range(1, 1000))
    patch.setattr(feddf, "alignment_rows", lambda experiment, round_, items: rows(experiment, next(turn), items))


def other_mean(patch, mean):
    patch.setattr(fedavg, "mean", mean)
    patch.setattr(feddf, "agreed", lambda tensors, how: mean(tensors))


def one_client_left_out(patch):
    other_mean(patch, lambda tensors, weights=None: client.mean(tensors[1:], weights and weights[1:]))


def unweighted(patch):
    other_mean(patch, lambda tensors, weights=None: client.mean(tensors))
    return only_the_start_is_scored(patch)


def batch_norm_left_out(patch):
    averaged = feddf.averaged

    def without(experiment, store, round_, names):
        first = store.get(f"{names[0]}/{round_:03}/weights")
        return averaged(experiment, store, round_, names) | {key: first[key] for key in first if "running" in key}

    patch.setattr(feddf, "averaged", without)
    return only_the_start_is_scored(patch)


def taught_by_its_own_architecture(patch):
    distil = feddf.distil

    def own(experiment, store, round_, architecture):
        names = [name for name in experiment.client_names if experiment.architecture_of(name) == architecture]
        logits = [store.get(f"{name}/{round_:03}/logits")["logits"] for name in names]
        store.put(f"public/{round_:03}/teacher", {"logits": client.mean(logits)})
        return distil(experiment, store, round_, architecture)

    altered.handlers(patch, "feddf", distil=own)
    every_score_is_a_gain(patch)


def reverse(patch):
    every_score_is_a_gain(patch)
    return {"kl": "reverse"}


def last_weights(patch):
    class KeepLast(feddf.KeepBest):
        def look(self, model):
            stop = super().look(model)
            self.weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            return stop

    patch.setattr(feddf, "KeepBest", KeepLast)


@pytest.mark.parametrize(("fault", "law", "says"), [
    (evaluate_after_the_next_round_began, phase_order, "not in PAPER's order"),
    (laws.smaller_part, laws.parts, "another size"),
    (goes_on_from_own_weights, train_goes_on_from_the_distilled, "did not train from"),
    (sample_of_its_own, one_sample_for_all, "did not predict the sample"),
    (one_client_left_out, teacher_is_the_mean_over_all, "not the mean over"),
    (unweighted, student_starts_at_the_weighted_average, "does not start at the weighted average"),
    (batch_norm_left_out, student_starts_at_the_weighted_average, "weighted average: .*running"),
    (taught_by_its_own_architecture, student_learns_the_teacher, "did not learn the teacher of all"),
    (reverse, student_learns_the_teacher, "by the forward KL"),
    (last_weights, best_weights_win, "did not win"),
], ids=lambda value: getattr(value, "__name__", ""))
def test_law_fails_on_its_fault(fault, law, says, smoke, monkeypatch):
    settings = TINY | (fault(monkeypatch) or {})
    faulty = smoke("feddf", keep=True, **settings)
    with pytest.raises(AssertionError, match=says):
        law(faulty)


def test_no_test_label_decides(smoke, relabelled):
    laws.no_test_label_decides(smoke("feddf", keep=True, **TINY), relabelled("feddf", keep=True, **TINY))


def test_a_test_label_that_decides_is_seen(smoke, relabelled, monkeypatch):
    laws.leak(monkeypatch, "validation")
    with pytest.raises(AssertionError, match="reached a decision"):
        laws.no_test_label_decides(smoke("feddf", keep=True, **TINY), relabelled("feddf", keep=True, **TINY))


def test_divergence_is_forward_unless_reversed():
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(2, 7, 5)) * 3
    forward, backward = _kl(teacher, student), _kl(student, teacher)
    assert abs(forward - backward) > 0.1
    given = torch.from_numpy(student), torch.from_numpy(teacher)
    assert float(feddf.divergence(*given)) == pytest.approx(forward)
    assert float(feddf.reversed_divergence(*given)) == pytest.approx(backward)


def _kl(p, q):
    """KL(softmax(p) || softmax(q)), summed over classes, the batch's mean, by its definition."""
    p, q = (np.exp(z) / np.exp(z).sum(1, keepdims=True) for z in (p, q))
    return float((p * np.log(p / q)).sum(1).mean())


def _chosen(the_run, round_):
    """The clients that the round's records say were called."""
    return sorted(record.subject for record in the_run.records() if (record.step, record.round) == ("train", round_))


def _teacher(the_run, round_):
    return laws.mean([the_run.store.get(f"{name}/{round_:03}/logits")["logits"] for name in _chosen(the_run, round_)])


def _average(the_run, round_, architecture):
    """The mean of what the round's clients of the architecture trained, weighted by the samples that they hold."""
    names = [name for name in _chosen(the_run, round_) if the_run.experiment.architecture_of(name) == architecture]
    trained = [the_run.store.get(f"{name}/{round_:03}/weights") for name in names]
    samples = [len(the_run.store.get(f"private/{name}/data")["y"]) for name in names]
    return {key: laws.mean([weights[key] for weights in trained], samples) for key in trained[0]}


def _averaged_start(the_run, round_, architecture):
    model = client.start(the_run.experiment, architecture)
    model.load_state_dict({key: torch.from_numpy(np.asarray(array))
                           for key, array in _average(the_run, round_, architecture).items()})
    return model
