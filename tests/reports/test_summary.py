"""A run at a glance says what its records say."""

import pytest

from kdlib.errors import KdlibError
from kdlib.reports.cost import load_prices, total
from kdlib.reports.summary import live, summary
from kdlib.runs import runner
from kdlib.settings.experiment import make_experiment


def test_it_is_what_the_records_say(common):
    the_run = common("feddf", alpha=0.1)
    found = summary(the_run.folder, "lambda")
    assert found.accuracy["mean"] == pytest.approx(the_run.result["accuracy"])
    assert found.steps.loc["in all", "usd"] == pytest.approx(float(total(the_run, load_prices("lambda"))))
    assert found.steps.loc["train", "calls"] == 18 and found.steps.loc["in all", "calls"] == len(the_run.table)
    assert found.steps.loc["in all", "mb_in"] == pytest.approx(the_run.table["bytes_in"].sum() / 1e6)


def test_it_reads_well_as_a_page_and_as_text(common):
    found = summary(common("feddf", alpha=0.1))
    for shown in (found._repr_html_(), str(found)):
        assert "digits feddf alpha 0.1 seed 0: round 3 of 3" in shown and "Google Cloud Functions" in shown
        assert all(word in shown for word in ("cnn2-128-256", "mean", "distil", "in all"))


def test_a_run_on_its_way_has_one_too(common, tmp_path):
    the_run = common("alone", alpha=0.5)
    lines = (the_run.folder / "records" / "inline-1.jsonl").read_text().splitlines(keepends=True)
    torn = the_run._replace(folder=tmp_path / the_run.key)
    (torn.folder / "records").mkdir(parents=True)
    (torn.folder / "records" / "inline-1.jsonl").write_text("".join(lines[:3]))
    found = summary(torn)
    assert found.steps.loc["in all", "calls"] == 3 and found.rounds.startswith("0 of") and len(found.accuracy) == 1
    (torn.folder / "records" / "inline-1.jsonl").unlink()
    with pytest.raises(KdlibError, match="has no Step yet that is done"):
        summary(torn)


def test_one_goes_on_with_its_run(tmp_path, capsys):
    """Without a notebook every round prints its own; with one see tests/notebooks."""
    the_run = runner.run(make_experiment("digits", "alone", profile="smoke", rounds=2, samples=20, test_items=50),
                         tmp_path, progress=False, watch=live("lambda"))
    told = capsys.readouterr().out
    assert [line for line in told.splitlines() if "round" in line] == [
        line for line in told.splitlines() if line.startswith("digits alone alpha 0.1 seed 0: round ")]
    assert told.index("round 1 of 2") < told.index("round 2 of 2") and "AWS Lambda" in told
    assert told.rstrip().endswith(str(summary(the_run, "lambda")))
