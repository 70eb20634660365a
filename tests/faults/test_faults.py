"""Faults, counted and repeatable by seed: every run ends, and ends with the bytes of the undisturbed one.

KDLIB_FAULTS says how many (120), KDLIB_FAULT_SEED which.
"""

import os
import random
from collections import Counter

import pytest
import torch
from arena import ARCHITECTURES, DEADLINE, IN_A_FOLDER, KILLED, KINDS, LEFT_OUT, Arena, Fault, reads
from hostile import OF_ANOTHER_ONLY, SPOILT

from functions import tiny
from kdlib.invoke.steps import Step
from kdlib.invoke.strategy import everybody, strategy_of
from kdlib.learning.client import mean

COUNT = int(os.environ.get("KDLIB_FAULTS", "120"))
SEED = int(os.environ.get("KDLIB_FAULT_SEED", "0"))
A_RUN = 5  # faults of a run at most
EXPERIMENTS = {strategy: tiny(strategy, clients=3, architectures=ARCHITECTURES,
                              **({"clients_per_round": 3} if strategy == "feddf" else {}))
               for strategy in ("fedmd", "feddf")}
CLIENTS = EXPERIMENTS["fedmd"].client_names


@pytest.fixture(scope="module", params=["folder", "s3"])
def arena(request, tmp_path_factory):
    server = request.getfixturevalue("s3_server") if request.param == "s3" else None
    arena = Arena(tmp_path_factory.mktemp(f"faults-{request.param}"), CLIENTS, server)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (server.admin if server else {}).items():
            patch.setenv(name, value)
        yield arena
    arena.close()


@pytest.fixture(scope="module")
def undisturbed(arena):
    """strategy -> the final bytes of a run in one process."""
    return {strategy: arena.run(experiment, inline=True).result["final_bytes"]
            for strategy, experiment in EXPERIMENTS.items()}


def test_every_run_ends_with_the_bytes_of_the_undisturbed_one(arena, undisturbed):
    kinds = KINDS if arena.s3 else (*KINDS, *IN_A_FOLDER)
    for number, (strategy, faults) in enumerate(plans(COUNT // 2, f"{SEED}/{'s3' if arena.s3 else 'folder'}", kinds)):
        the_run = arena.run(EXPERIMENTS[strategy], faults)
        context = f"seed {SEED}, run {number}, {strategy}: {faults}"
        assert the_run.result["final_bytes"] == undisturbed[strategy], context
        assert arena.wrong == [] and arena.plan == {}, context
    assert arena.struck.total() >= COUNT // 2
    print(f"\n{arena.struck.total()} faults over {arena.place}: {dict(arena.struck)}")


@pytest.mark.parametrize(("strategy", "step", "agreed"), [
    ("fedmd", "communicate", "consensus"), ("feddf", "train", "teacher")])
def test_a_client_past_the_deadline_is_left_out_and_the_run_ends(arena, strategy, step, agreed):
    late, *others = EXPERIMENTS[strategy].client_names
    last = EXPERIMENTS[strategy].rounds
    the_run = arena.run(EXPERIMENTS[strategy], [Fault(LEFT_OUT, Step(step, last, late))], patience=(DEADLINE, 0.5))
    store = the_run.store
    assert store.get_json(f"public/cohort/{last:03}")[step] == others
    assert Step(step, last, late) not in {done for record in the_run.records() for done in record.done}
    logits = [store.get(f"{client}/{last:03}/logits")["logits"] for client in others]
    assert torch.equal(store.get(f"public/{last:03}/{agreed}")["logits"], mean(logits))


def plans(count: int, seed: str, kinds=KINDS):
    """(strategy, its faults) of one run after the other, until there are so many; each kind about equally often."""
    rng = random.Random(seed)
    deck = [kinds[index % len(kinds)] for index in range(count)]
    rng.shuffle(deck)
    while deck:
        strategy = rng.choice(sorted(EXPERIMENTS))
        experiment = EXPERIMENTS[strategy]
        stages = list(strategy_of(experiment).stages(experiment, everybody(experiment)))
        faults = []
        for kind in [deck.pop() for _ in range(min(A_RUN, len(deck)))]:
            stage = rng.choice([stage for stage in stages if _can(kind, stage)])
            stages.remove(stage)  # one fault a stage: else one might hide another
            faults.append(Fault(kind, rng.choice(stage.steps)))
        yield strategy, faults


def _can(kind, stage):
    if kind in (*SPOILT, *IN_A_FOLDER):
        own = reads(stage.steps[0]) is None or stage.name in ("communicate", "revisit", "evaluate")
        return not own or (reads(stage.steps[0]) is not None and kind not in OF_ANOTHER_ONLY)
    return stage.name != "evaluate" or kind not in KILLED or KILLED[kind] == "recorded"  # which writes nothing else


def test_the_plan_is_that_of_the_seed():
    assert list(plans(40, "0")) == list(plans(40, "0")) != list(plans(40, "1"))
    kinds = Counter(fault.kind for _, faults in plans(10 * len(KINDS), "0") for fault in faults)
    assert set(kinds.values()) == {10} and set(kinds) == set(KINDS)
