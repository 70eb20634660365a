"""What strategies declare: complete, consistent, and refused in one line where they are not."""

import inspect
from dataclasses import replace

import pytest

import altered
from kdlib.cohort.history import in_turn
from kdlib.errors import KdlibError
from kdlib.invoke.perform import perform
from kdlib.invoke.steps import Step
from kdlib.invoke.strategy import (
    LONGEST,
    Sizes,
    Strategy,
    Work,
    everybody,
    expect_sources,
    of_aggregator,
    of_client,
    of_worker,
    strategy_of,
)
from kdlib.registry import STRATEGIES
from kdlib.settings.experiment import make_experiment
from kdlib.store import names
from kdlib.strategies import alone

NAMES = STRATEGIES.names()


def smoke(strategy, **settings):
    return make_experiment("digits", strategy, 1.0, profile="smoke", **settings)


@pytest.mark.parametrize("strategy", NAMES)
def test_it_is_declared_under_its_name_in_a_file_of_its_own(strategy):
    declared = strategy_of(smoke(strategy))
    assert declared.name == strategy and declared is STRATEGIES.find(strategy).value
    assert inspect.getfile(declared.workflow).endswith(f"{strategy}.py")
    assert inspect.getfile(declared.settings).endswith(f"{strategy}.py")


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("strategy", NAMES)
def test_every_step_of_its_workflow_is_declared_and_every_declared_one_is_in_it(strategy, fused):
    experiment = smoke(strategy)
    declared = strategy_of(experiment)
    if fused and declared.fused is None:
        return
    stages = list(declared.stages(experiment, in_turn(experiment), fused))
    called = {part.name for stage in stages for part in stage.steps[0].parts}
    assert called == {step.name for step in declared.steps}
    assert [stage.round for stage in stages] == sorted(stage.round for stage in stages)
    assert {stage.round for stage in stages} >= set(range(1, experiment.rounds + 1))


@pytest.mark.parametrize("strategy", NAMES)
def test_what_a_steps_work_grows_with_can_be_worked_out(strategy):
    experiment = smoke(strategy)
    for step in strategy_of(experiment).steps:
        work = step.work(experiment, Sizes(100, 1000, 256, 50))
        assert isinstance(work, Work) and min(work) >= 0 < sum(work) and 0 < step.seconds <= LONGEST


@pytest.mark.parametrize(("strategy", "step", "subject", "carrier"), [
    ("fedmd", "pretrain", "cnn2-128-256", "worker"), ("fedmd", "transfer", "client-0001", "client"),
    ("fedmd", "aggregate", "server", "aggregator"), ("feddf", "distil", "cnn2-128-256", "aggregator"),
    ("fedmd", "transfer+evaluate>communicate", "client-0001", "client"), ("feddf", "evaluate", "client-0001", "client"),
    ("feddf", "evaluate", "cnn2-128-256", "aggregator"), ("alone", "evaluate", "client-0001", "client"),
])
def test_who_carries_a_step_out(strategy, step, subject, carrier):
    assert strategy_of(smoke(strategy)).carrier(step, subject) == carrier


def test_a_step_that_it_has_not_is_refused_in_one_line(tmp_path):
    with pytest.raises(KdlibError, match="feddf has no step digest; allowed: train, teach, distil, evaluate") as error:
        perform(smoke("feddf"), None, Step("digest", 1, "client-0000"))
    assert "\n" not in str(error.value)
    with pytest.raises(KdlibError, match=r"alone has no step n{40}; allowed"):
        strategy_of(smoke("alone")).step("n" * 1000)


def test_everybody_is_called_where_nobody_is_chosen():
    experiment = smoke("fedmd")
    assert everybody(experiment)(3) == experiment.client_names == in_turn(experiment)(3)


def train(experiment, store, round_, subject):
    return {}


def evaluate(experiment, store, round_, subject):
    return {}


def work(experiment, sizes):
    return Work()


GOOD = {"name": "mine", "title": "Mine", "settings": alone.Alone, "workflow": alone.workflow,
        "steps": (of_client(train, work), of_aggregator(evaluate, work)), "model": names.named}


@pytest.mark.parametrize(("changes", "says"), [
    ({"steps": (of_client(train, work), of_worker(train, work))}, "two steps are called train"),
    ({"steps": (of_client(train, work, needs="digest"),)}, "train needs digest, which is no step"),
    ({"selects": "distil"}, "it selects for distil, which is no step"),
    ({"scratch": ("digested",), "passing": ("logits",)}, "scratch digested is not passing"),
])
def test_a_declaration_that_contradicts_itself_is_refused_in_one_line(changes, says):
    assert Strategy(**GOOD).step("train").handler is train
    with pytest.raises(KdlibError, match=f"strategy mine: {says}; allowed steps: train") as error:
        Strategy(**GOOD | changes)
    assert "\n" not in str(error.value)


def test_no_strategy_but_fedmd_can_be_fused():
    for name in NAMES:
        declared = STRATEGIES.find(name).value
        if name == "fedmd":
            assert list(declared.stages(smoke(name), None, fused=True))
        else:
            with pytest.raises(KdlibError, match=f"{name} has no fused round; allowed: fedmd"):
                declared.stages(smoke(name), None, fused=True)


def test_the_code_that_a_strategy_is_made_of_is_all_its_functions():
    declared = STRATEGIES.find("fedmd").value
    assert declared.code == [declared.settings, declared.workflow, declared.fused,
                             *(step.handler for step in declared.steps)]
    assert replace(declared, fused=None).code == [declared.settings, declared.workflow,
                                                  *(step.handler for step in declared.steps)]


def test_another_version_of_a_strategy_or_network_is_refused(monkeypatch):
    experiment = smoke("alone")
    expect_sources(experiment, {})
    for sources in ({"strategy mine": "ab"}, {"network deep": "cd"}):
        (name,) = sources
        with pytest.raises(KdlibError, match=f"{name} is another version here than where the run was begun; allowed: "
                                             "the same source"):
            expect_sources(experiment, sources)


def test_an_altered_strategy_is_what_a_test_makes_of_it(monkeypatch):
    before = STRATEGIES.find("alone").value
    altered.handlers(monkeypatch, "alone", evaluate=lambda *_: {"accuracy": 1.0})
    assert perform(smoke("alone"), None, Step("evaluate", 1, "client-0000"))[0].metrics == {"accuracy": 1.0}
    assert STRATEGIES.find("alone").value.step("train") is before.step("train")
    monkeypatch.undo()
    assert STRATEGIES.find("alone").value is before
