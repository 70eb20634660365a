"""Runs beside each other."""

import pytest

from kdlib.errors import KdlibError
from kdlib.reports import times
from kdlib.reports.comparison import compare
from kdlib.reports.cost import load_prices, total


def test_what_differs_is_a_column_and_what_does_not_is_none(common):
    one, two = common("feddf", alpha=0.1), common("feddf", alpha=0.1, seed=1)
    table = compare([one, two.folder])
    assert list(table) == ["seed", "accuracy", "modelled", "measured", "usd"]
    assert list(table.index) == [one.key, two.key] and table["seed"].tolist() == [0, 1]


def test_the_numbers_are_those_of_the_records(common):
    one = common("fedmd", alpha=0.1)
    row = compare([one], "lambda").iloc[0]
    assert row["accuracy"] == one.result["accuracy"]
    assert row["measured"] == pytest.approx(times.rounds(one)["measured"].sum())
    assert row["usd"] == float(total(one, load_prices("lambda")))


def test_strategies_differ_in_settings_that_the_other_lacks(common):
    table = compare([common("fedmd", alpha=0.1), common("feddf", alpha=0.1)])
    assert table["strategy"].tolist() == ["fedmd", "feddf"]
    assert table["digest_epochs"].isna().tolist() == [False, True]


def test_what_cannot_be_compared_is_told(common, tmp_path):
    with pytest.raises(KdlibError, match="nothing to compare; allowed: at least one run"):
        compare([])
    with pytest.raises(KdlibError, match="holds no run"):
        compare([tmp_path])
