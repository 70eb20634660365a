"""Every bench runs at tiny size and says what it measured; ratios are asserted of the committed results alone."""

import functools
import importlib.util
import json
from pathlib import Path

import pytest

import forked
from kdlib.paper.bench import BENCHES, measure
from kdlib.paper.bench.measure import Bench, alternate, finish, ratio
from kdlib.settings.architectures import ZOO

ROOT = Path(__file__).parents[2]
APART = {"scale", "peers"}  # one needs MNIST, the other Flower
DATA_FREE = sorted(BENCHES.keys() - APART)


def bench(name, *more):
    done = forked.run("kdlib", "bench", name, "--json", *more, cwd=ROOT, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@functools.cache
def quick(name):
    return bench(name, "--quick", "--pairs", "1")


@pytest.mark.parametrize("name", DATA_FREE)
def test_a_bench_says_what_it_measured(name):
    found = quick(name)
    assert found["name"] == name and found["pairs"] == 1 and found["threads"] in (1, 2)
    assert found["ratio"] > 0 and found["factors"] and all(factor > 0 for factor in found["factors"].values())
    assert all(side["low"] <= side["median"] <= side["high"] for side in found["sides"].values())
    assert bool(found["extrapolated"]) == (name == "distil"), "only distil is scaled up, and says so"


def test_the_fused_round_takes_a_quarter_of_the_calls_and_less_than_half_the_bytes():
    factors = quick("fused")["factors"]
    assert factors["invocations"] == 4 and factors["bytes moved"] >= 2 and factors["same final bytes"] == 1


def test_rounds_of_more_clients_take_no_more_memory():
    from kdlib.data import sets

    if not all((sets.folder() / f"{name}.npz").is_file() for name in ("mnist", "emnist_letters")):
        pytest.skip("MNIST and EMNIST-letters are not here: KDLIB_DATA names no folder that has them")
    found = quick("scale")
    assert set(found["factors"]) == {"3 clients", "6 clients"}  # seconds: of the committed result, below
    peaks = [value for name, value in found["facts"].items() if "memory" in name]
    assert len(peaks) == 2 and max(peaks) < 1.5
    assert len(found["facts"]) == 2 * 6, "of each size: seconds, partition, memory, store, listing, sweeping"


def test_peers_runs_both_sides_of_each_pair_or_says_what_to_install():
    if importlib.util.find_spec("flwr") is None:
        done = forked.run("kdlib", "bench", "peers", cwd=ROOT)
        assert done.returncode == 2 and "pip install 'kdlib[peers]'" in done.stderr and done.stderr.count("\n") == 1
        return
    found = quick("peers")
    assert len(found["sides"]) == 4 and len(found["factors"]) == 2 and "Flower" in found["notes"][0]


OF_THE_ENGINE = {"train", "predict", "pretrain", "distil"}  # which depend on the CPU: AMX or not
PROMISED = {  # of the committed results
    "train": lambda found: found.ratio >= 3.5 and min(found.factors[name] for name in ZOO) >= 2,
    "predict": lambda found: found.ratio >= 6,
    "pretrain": lambda found: found.ratio >= 20,
    "distil": lambda found: found.ratio >= 15,
    "overhead": lambda found: found.ratio <= 1.05 and found.factors["ray over two processes"] <= 1.10,
    "fused": lambda found: found.ratio == 4 and found.factors["bytes moved"] >= 2,
    "scale": lambda found: found.ratio <= 1.15 and max(
        value for name, value in found.facts.items() if "peak memory" in name) < 2,
    "peers": lambda found: min(found.factors.values()) >= 1.5,
}


@pytest.mark.parametrize("name", sorted(BENCHES))
def test_the_committed_results_are_as_promised(name):
    """`make bench` writes them on a machine with nothing else to do; while tests run, no ratio is worth asserting."""
    found = measure.load(ROOT / "papers_figures", name)
    if name in OF_THE_ENGINE and "amx_bf16" not in found.machine["flags"]:
        pytest.skip(f"bench-{name}.json comes from a CPU without AMX: it reports, nobody asserts")
    assert found.name == name and found.pairs >= (1 if name in APART else 3) and PROMISED[name](found), found.text()


def test_sides_take_turns_after_a_call_that_does_not_count():
    calls = []
    seconds = alternate({"a": lambda: calls.append("a") or 2.0, "b": lambda: calls.append("b") or 1.0}, pairs=3)
    assert calls == ["a", "b"] * 4 and seconds == {"a": [2.0] * 3, "b": [1.0] * 3}
    assert ratio(seconds["a"], seconds["b"]) == 2


def test_a_long_side_has_three_pairs_and_its_first_call_counts(monkeypatch):
    monkeypatch.setattr(measure, "LONG", 0.0)
    calls = []
    seconds = alternate({"a": lambda: calls.append("a") or None}, pairs=5)
    assert len(seconds["a"]) == len(calls) == 3


def test_the_ratio_is_that_of_the_pairs():
    assert ratio([2.0, 40.0, 6.0], [1.0, 10.0, 2.0]) == 3  # a drift of the machine that both sides share is no matter


def test_a_bench_survives_json_and_reads_well(tmp_path):
    made = finish("train", 2.0, {"x": 2.0}, {"slow": [2.0, 2.2], "fast": [1.0, 1.1]}, 1, {"slow": 10, "fast": 10},
                  extrapolated={"slow": 5.0})
    (tmp_path / "bench-train.json").write_text(made.model_dump_json())
    assert measure.load(tmp_path, "train") == made == Bench.model_validate_json(made.model_dump_json())
    assert "train: 2.00x" in made.text() and "slow was scaled up by 5" in made.text() and "items/s" in made.text()


def test_an_unknown_bench_is_one_clear_line():
    done = forked.run("kdlib", "bench", "trian", cwd=ROOT)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "allowed: train, predict" in done.stderr
