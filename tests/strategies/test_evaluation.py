"""`evaluate_every`: models are scored in fewer rounds, and learn as they would have."""

import pytest

from kdlib.runs import runner
from kdlib.runs.run import accuracy_by_architecture
from kdlib.settings.experiment import make_experiment

FEW = {"profile": "smoke", "samples": 30, "local_epochs": 1, "public_items": 100, "alignment_items": 32,
       "test_items": 60, "distil_batches": 2, "score_every": 2, "pretrain_epochs": 1, "transfer_epochs": 1,
       "architectures": ["cnn2-8-8", "cnn4-8-8-8-8"], "clients": 2, "clients_per_round": 2}


def ran(strategy, folder, fused=False, **settings):
    own = make_experiment("digits", strategy, profile="smoke").model_dump()
    asked = {name: value for name, value in FEW.items() if name in own or name == "profile"}
    return runner.run(make_experiment("digits", strategy, **asked | settings), folder, progress=False, fused=fused)


@pytest.mark.parametrize(("strategy", "before"), [("fedmd", [0]), ("feddf", []), ("fedavg", []), ("alone", [])])
@pytest.mark.parametrize(("rounds", "every", "scored"), [(5, 2, [2, 4, 5]), (2, 9, [2])])
def test_only_such_rounds_are_scored_and_the_last_one_always(strategy, before, rounds, every, scored, tmp_path):
    some = ran(strategy, tmp_path, rounds=rounds, evaluate_every=every)
    curve = accuracy_by_architecture(some)
    assert sorted(set(curve["round"])) == before + scored
    each = accuracy_by_architecture(ran(strategy, tmp_path, rounds=rounds))
    assert sorted(set(each["round"])) == before + list(range(1, rounds + 1))
    assert curve.equals(each[each["round"].isin(curve["round"])].reset_index(drop=True))


def test_a_fused_round_skips_the_same_ones(tmp_path):
    by_four, in_one = (ran("fedmd", tmp_path / str(fused), fused, rounds=3, evaluate_every=2) for fused in (0, 1))
    assert in_one.result["final_bytes"] == by_four.result["final_bytes"]
    names = [record.step for record in in_one.records() if record.subject == "client-0001"]
    assert names == ["transfer+evaluate>communicate", "digest+revisit>communicate",
                     "digest+revisit+evaluate>communicate", "digest+revisit+evaluate"]
