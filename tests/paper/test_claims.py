"""CLAIMS.md says what the records say: numbers by hand, verdicts by their rule, a warning where things are unlike."""

import csv
import os
import shutil

import numpy as np
import pytest

import forked
from kdlib.errors import KdlibError
from kdlib.paper import claims
from kdlib.reports import times
from kdlib.reports.cost import built_in, load_prices, right_sized, total
from kdlib.reports.estimate import Estimate
from kdlib.runs.run import Run, accuracy_by_architecture
from kdlib.settings.experiment import make_experiment


@pytest.fixture(scope="module")
def runs(common):
    """FedMD and FedDF of two seeds."""
    return [common(strategy, alpha=0.1, seed=seed) for seed in (0, 1) for strategy in ("fedmd", "feddf")]


@pytest.fixture(scope="module")
def rows(runs, tmp_path_factory):
    prices = [load_prices(name) for name in built_in()]
    return claims.findings(runs, prices, tmp_path_factory.mktemp("none"), "make it")


def test_every_claim_has_its_rows(rows):
    assert [row.claim for row in rows] == ["C1", "C2", *["C3"] * len(built_in()), "C4", "C5"]
    assert all(row.command and row.verdict for row in rows)


def test_c1_is_the_mean_over_seeds_of_the_final_accuracy(runs, rows):
    def final(strategy):
        return np.mean([accuracy_by_architecture(one).query("round == 3")["accuracy"].mean()
                        for one in runs if one.experiment.strategy == strategy])

    assert f"FedMD {final('fedmd'):.3f}" in rows[0].ours and f"FedDF {final('feddf'):.3f}" in rows[0].ours
    assert f"gap at 0.1: {final('feddf') - final('fedmd'):+.3f}" in rows[0].ours and "(2 seeds)" in rows[0].ours


@pytest.mark.parametrize(("fedmd", "feddf", "verdict"), [
    ((0.3, 0.31, 0.29), (0.6, 0.62, 0.58), "holds"), ((0.6, 0.62, 0.58), (0.3, 0.31, 0.29), "does not hold"),
    ((0.3, 0.6, 0.5), (0.6, 0.3, 0.55), "undecided"), ((0.3,), (0.6,), "undecided: one seed"),
])
def test_c1_is_decided_by_the_interval_of_the_paired_gaps(fedmd, feddf, verdict, runs, monkeypatch):
    by_strategy = {one.experiment.strategy: one for one in runs[:2]}

    class Ended(Run):
        @property
        def result(self):
            ends = dict(zip(("fedmd", "feddf"), (fedmd, feddf), strict=True))[self.experiment.strategy]
            return super().result | {"accuracy": ends[self.experiment.seed]}

    def ended(strategy, seed):
        one = by_strategy[strategy]
        return Ended(one.folder, one.experiment.model_copy(update={"seed": seed}))

    pairs = {(0.1, seed): (ended("fedmd", seed), ended("feddf", seed)) for seed in range(len(fedmd))}
    assert claims._robust(pairs)[1] == verdict


def test_c3_is_what_the_records_cost(runs, rows):
    prices = load_prices(built_in()[0])
    shares = sorted(float(total(feddf, prices) / total(fedmd, prices))
                    for fedmd, feddf in (runs[:2], runs[2:]))
    fitted = sorted(float(total(feddf, prices, right_sized(feddf)) / total(fedmd, prices, right_sized(fedmd)))
                    for fedmd, feddf in (runs[:2], runs[2:]))
    assert f"FedDF / FedMD {shares[1]:.2f} ({shares[0]:.2f} to {shares[1]:.2f}); " in rows[2].ours
    assert f"right-sized: {fitted[1]:.2f} ({fitted[0]:.2f} to {fitted[1]:.2f}); " in rows[2].ours


def test_c2_and_c3_also_stand_until_an_accuracy_that_all_reach(runs, rows):
    level, prices = times.reachable(runs), load_prices(built_in()[0])
    fedmd, feddf = (times.to_reach(runs[first::2], level, prices) for first in (0, 1))
    faster, dearer = sorted(fedmd["modelled"] / feddf["modelled"]), sorted(feddf["usd"] / fedmd["usd"])
    for row, ratios in ((rows[1], faster), (rows[2], dearer)):
        assert f"until the accuracy is {level:g} at 0.1: " in row.ours
        assert row.ours.endswith(f"{ratios[1]:.2f} ({ratios[0]:.2f} to {ratios[1]:.2f})")


def test_accuracies_on_unlike_data_are_not_waited_for(runs):
    fedmd, feddf = runs[:2]
    other = fedmd.experiment.task.model_copy(update={"about": "other"})
    elsewhere = Run(fedmd.folder, fedmd.experiment.model_copy(update={"task": other}))
    prices = load_prices(built_in()[0])
    assert len(claims._until({(0.1, 0): (fedmd, feddf)}, prices)) == 1
    assert claims._until({(0.1, 0): (elsewhere, feddf)}, prices) == []


def test_what_differs_names_the_papers_value():
    said = claims.differs([make_experiment("digits", "feddf", 0.1, profile="laptop")])
    assert "clients 12 (100)" in said and "width 0.125 (1)" in said and "samples 500 (all)" in said
    assert claims.differs([make_experiment("digits", "feddf", 0.1, profile="paper")]) == "nothing"


def test_the_page_carries_the_warning_every_row_and_where_its_set_up_is_told(rows, tmp_path):
    text = claims.write(rows, tmp_path).read_text()
    assert claims.UNLIKE in text and "82.7 %" in text and "not measured" in text
    tables, setups = text.split("## Set-ups")
    numbers = {line.partition(". ")[2]: line.partition(". ")[0] for line in setups.splitlines() if line[:1].isdigit()}
    for row in rows:
        number = numbers[f"`{row.command}`: {row.differs}"]
        assert f"| {row.where} | {row.ours} | {row.verdict} | {number} |\n" in tables.split(f"## {row.claim}: ")[1]
    assert tables.count("\n| ") == len(rows) + len({row.claim for row in rows})


def test_at_the_papers_size_the_claims_are_ratios_of_two_estimates(tmp_path):
    about = {"seconds": 1, "cores": 2, "invocations": 1, "bytes_moved": 0, "prices": "Cloud, there, today",
             "scaled": {}, "probe": 1}
    made = {"fedmd": Estimate(modelled=30, usd=2.0, per_step={"revisit": 42, "digest": 28}, **about),
            "feddf": Estimate(modelled=20, usd=2.5, per_step={"train": 40, "distil": 60}, **about)}
    for strategy, one in made.items():
        assert claims.estimated("mnist", tmp_path) == []
        for task in ("mnist", "shakespeare"):
            (tmp_path / f"estimate-{task}-{strategy}.json").write_text(one.model_dump_json())
    c2, c3 = claims.estimated("mnist", tmp_path)
    assert (c2.claim, c2.verdict) == ("C2", "would hold") and (c3.claim, c3.verdict) == ("C3", "would not hold")
    assert c2.ours.endswith("FedMD / FedDF: 1.50; seconds in all functions: 0.70")
    assert c3.ours == "Cloud: FedDF / FedMD 1.25"
    c6 = claims.estimated("shakespeare", tmp_path)[2]
    assert (c6.claim, c6.verdict) == ("C6", "would not hold") and c6.ours.endswith("FedMD 60%, FedDF 40%")


def test_runs_without_a_partner_are_no_claim(runs, tmp_path):
    with pytest.raises(KdlibError, match="fedmd and feddf with the same alpha and seed"):
        claims.findings([runs[0], runs[3]], [], tmp_path, "make it")


def test_a_task_without_runs_is_named_with_the_command_that_makes_them(tmp_path):
    with pytest.raises(KdlibError, match=r"no complete run of mnist .* `kdlib reproduce --task mnist --profile"):
        claims.made("mnist", "laptop", tmp_path)


def test_the_command_writes_the_claims_and_keeps_the_records_that_they_stand_on(runs, tmp_path):
    for one in runs:
        shutil.copytree(one.folder, tmp_path / "runs" / one.key)
    typed = forked.run("kdlib", "claims", "--tasks", "digits", "--profile", "smoke", "--figures", "figures",
                       cwd=tmp_path, environment=os.environ)
    assert typed.returncode == 0, typed.stderr
    figures = tmp_path / "figures"
    (row,) = csv.DictReader((figures / "index.csv").open())
    keys = {one.key for one in runs}
    assert row["figure"] == "CLAIMS.md" and set(row["runs"].split()) == keys
    assert {path.stem for path in (figures / "records").glob("*.zip")} == keys
