"""FedMD fused: a client's Steps from one consensus to the next are one invocation, and no byte is another."""

import pytest

from kdlib.errors import KdlibError
from kdlib.invoke.invokers import Base
from kdlib.invoke.perform import measured, perform
from kdlib.registry import STRATEGIES
from kdlib.runs import run, runner
from kdlib.settings.experiment import make_experiment

TINY = {"clients": 3, "rounds": 2, "samples": 40, "revisit_epochs": 1, "pretrain_epochs": 1, "transfer_epochs": 1,
        "public_items": 200, "alignment_items": 64, "test_items": 100}


@pytest.fixture(scope="module")
def four(smoke):
    """The smoke run, a client's round in four calls."""
    return smoke("fedmd")


@pytest.fixture(scope="module")
def fused(smoke):
    """The same in one."""
    return smoke("fedmd", fused=True)


def test_it_ends_with_the_bytes_of_four_calls(four, fused):
    assert fused.result["final_bytes"] == four.result["final_bytes"] and fused.key == four.key
    assert {name: value for name, value in fused.result.items() if name not in ("folder", "seconds")} == {
        name: value for name, value in four.result.items() if name not in ("folder", "seconds")}


def test_it_carries_out_the_same_steps(four, fused):
    def steps(the_run):
        done = [(step, part.metrics) for record in the_run.records() for step, part in record.done.items()]
        return sorted(done, key=lambda pair: pair[0])

    assert steps(fused) == steps(four) and len(fused.steps) == len(four.steps) == len(four.table)
    assert run.accuracy_by_architecture(fused).equals(run.accuracy_by_architecture(four))


def test_a_client_is_called_a_quarter_as_often_in_a_round(four, fused):
    for the_run, calls in ((four, 4), (fused, 1)):
        rows = the_run.table.query("subject.str.startswith('client') and round > 0")
        counts = rows.groupby(["round", "subject"]).size()
        assert set(counts) == {calls}
        assert len(counts) == the_run.experiment.rounds * the_run.experiment.clients


def test_a_round_moves_at_most_half_of_the_bytes(four, fused):
    """Of the second round of three, which has a communicate for a client in both."""
    rounds = (the_run.table.query("round == 2") for the_run in (four, fused))
    before, after = (rows[["bytes_in", "bytes_out"]].sum().sum() for rows in rounds)
    assert 0 < after <= before / 2


def test_what_only_the_next_step_reads_never_reaches_the_store(smoke):
    names = smoke("fedmd", keep=True, fused=True, **TINY).store.names()
    assert not [name for name in names if name.endswith("/digested")]
    assert {"client-0002/001/weights", "client-0002/001/logits", "client-0002/002/weights"} <= set(names)


def test_each_way_repeats_the_other(four, fused):
    assert runner.again(four, progress=False, fused=True) is True
    assert runner.again(fused, progress=False, fused=False) is True
    assert len(four.records(2)) < len(four.records()) == len(fused.records(2))


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES.names() if name != "fedmd"])
def test_only_fedmd_has_it(strategy, tmp_path):
    experiment = make_experiment("digits", strategy, 1.0, profile="smoke")
    with pytest.raises(KdlibError, match=f"{strategy} has no fused round; allowed: fedmd"):
        runner.run(experiment, tmp_path, progress=False, fused=True)


class Killed(Exception):
    """Stands for kill -9."""


class Mortal(Base):
    """Carries out `steps` Steps, and one more whose Record is lost."""

    name = "inline"

    def __init__(self, steps):
        self.left = steps

    def run(self, key, experiment, store, steps):
        for step in steps:
            record = measured(perform, key, experiment, store, step, self.name)
            if self.left == 0:
                raise Killed
            self.left -= 1
            yield record


@pytest.fixture(scope="module")
def whole(smoke):
    """The tiny run's result; 35 calls, or 14 fused."""
    return smoke("fedmd", **TINY).result["final_bytes"]


# Of three clients: 3 pretrain, 3 transfer, 3 evaluate; then a round is 3 communicate, aggregate, 3 digest, 3 revisit,
# 3 evaluate.
@pytest.mark.parametrize("steps", [0, 4, 7, 10, 12, 14, 17, 20, 22, 23, 25, 27, 30, 33, 34])
def test_begun_with_four_calls_and_killed_it_goes_on_fused(steps, whole, tmp_path):
    resumed(steps, begun_fused=False, whole=whole, folder=tmp_path)


# 3 pretrain, 3 transfer to communicate; then a round is aggregate and 3 digest to communicate.
@pytest.mark.parametrize("steps", [0, 4, 6, 7, 9, 10, 11, 12, 13])
def test_begun_fused_and_killed_it_goes_on_with_four_calls(steps, whole, tmp_path):
    resumed(steps, begun_fused=True, whole=whole, folder=tmp_path)


def resumed(steps, begun_fused, whole, folder):
    experiment = make_experiment("digits", "fedmd", 1.0, profile="smoke", **TINY)
    with pytest.raises(Killed):
        runner.run(experiment, folder, progress=False, invoker=Mortal(steps), fused=begun_fused)
    the_run = run.load(next(folder.glob("*/experiment.json")).parent)
    assert len(the_run.records()) == steps and the_run.result is None
    runner.run(experiment, folder, progress=False, fused=not begun_fused)
    assert the_run.result["final_bytes"] == whole
