"""Costs against sums done by hand, to the last digit."""

from fractions import Fraction as F

import pytest
from hypothesis import given
from hypothesis import strategies as st

import made
from kdlib.errors import KdlibError
from kdlib.reports import cost
from kdlib.reports.cost import PAPER, Limits, load_prices
from kdlib.settings.experiment import make_experiment

# One round of a small FedMD: (step, subject, seconds in the function).
ROUND = [("pretrain", "cnn2-128-256", 61.2), ("communicate", "client-0000", 0.0312),
         ("communicate", "client-0001", 0.3), ("aggregate", "server", 0.1), ("digest", "client-0000", 2.50001),
         ("digest", "client-0001", 0.9999)]
FEDMD = make_experiment("digits", "fedmd", 1.0, profile="smoke")
RECORDS = [made.record(step, subject, seconds, peak_memory=700 * 2**20) for step, subject, seconds in ROUND]

# By hand, in USD a million: 6 calls x fee + seconds as rounded x the rate of the paper's limits.
#   gcf: a client of 4 GB and 4.8 GHz takes 4 x 2.5 + 4.8 x 10 = 58 a second; 16 GB and 14.4 GHz take 184
#        clients 0.1 + 0.3 + 2.6 + 1.0 = 4.0 s, aggregator 0.1 s
#   lambda: 4 GB take 66.6668, 16 GB take 266.6672; clients 0.032 + 0.3 + 2.501 + 1.0 = 3.833 s, aggregator 0.1 s
#   knative: a client takes (2 x 21811.59 + 4 x 2923.53) / 3600 = 55317.3 / 3600, an aggregator (6 x 21811.59 + 16 x
#        2923.53) / 3600 = 177646.02 / 3600; clients 0.0312 + 0.3 + 2.50001 + 0.9999 = 3.83111 s, aggregator 0.1 s
#   workers, 4 vCPU and 16 GB: E2 (4 x 21811.59 + 16 x 2923.53) / 3600 = 134022.84 / 3600, 62 s rounded up, or 61.2 s
#        on knative; Fargate (4 x 40480 + 16 x 4445) / 3600 = 233040 / 3600, 62 s. They have no call fee
BY_HAND = {
    "gcf": 5 * F("0.4") + 4 * 58 + F("0.1") * 184 + F(62) * F("134022.84") / 3600,
    "lambda": 5 * F("0.2") + F("3.833") * F("66.6668") + F("0.1") * F("266.6672") + F(62) * 233040 / 3600,
    "knative": (F("3.83111") * F("55317.3") + F("0.1") * F("177646.02") + F("61.2") * F("134022.84")) / 3600,
}


@pytest.mark.parametrize("name", BY_HAND)
def test_a_made_run_costs_what_a_hand_calculation_says(name, tmp_path):
    assert cost.total(made.run(tmp_path, FEDMD, RECORDS), load_prices(name)) == BY_HAND[name] / 10**6


def test_every_table_that_comes_with_kdlib_is_checked_by_hand():
    assert cost.built_in() == sorted(BY_HAND)


# GCF's own list, USD for 100 ms of a size in MB.
PUBLISHED = {128: "0.000000231", 256: "0.000000463", 512: "0.000000925", 1024: "0.00000165", 2048: "0.0000029",
             4096: "0.0000058", 8192: "0.0000068"}


@pytest.mark.parametrize("megabytes", PUBLISHED)
def test_gcf_costs_what_its_list_says_of_each_size(megabytes):
    rates = load_prices("gcf").functions
    found = rates.a_second(Limits(0, F(megabytes, 1024))) / 10
    assert abs(found - F(PUBLISHED[megabytes])) <= F(1, 2 * 10**9), "the list has nine places"


@pytest.mark.parametrize(("name", "seconds", "rounded"), [
    ("gcf", 0.1, "0.1"), ("gcf", 0.1000001, "0.2"), ("gcf", 0.3, "0.3"), ("gcf", 1e-9, "0.1"), ("gcf", 2.0, "2"),
    ("lambda", 0.001, "0.001"), ("lambda", 0.0010001, "0.002"), ("lambda", 0.007, "0.007"), ("lambda", 5e-7, "0.001"),
    ("knative", 0.0010001, "0.0010001"), ("knative", 3.7, "3.7"),
])
def test_a_duration_is_rounded_as_the_provider_does(name, seconds, rounded):
    rates = load_prices(name).functions
    assert rates.cost(seconds, PAPER["client"]) == (
        F(rates.million_calls) / 10**6 + F(rounded) * rates.a_second(PAPER["client"]))


@given(st.floats(1e-6, 1e4), st.sampled_from(sorted(BY_HAND)))
def test_rounding_never_favours_the_caller_and_adds_less_than_a_step(seconds, name):
    rates = load_prices(name).functions
    exact = F(rates.million_calls) / 10**6 + F(str(seconds)) * rates.a_second(PAPER["client"])
    assert exact <= rates.cost(seconds, PAPER["client"]) <= exact + F(rates.step or 0) * rates.a_second(PAPER["client"])


@pytest.mark.parametrize(("name", "limits", "size"), [
    ("gcf", Limits(1, F(1, 2)), (2, F("2.4"))),  # a whole vCPU of 2.4 GHz comes with no less than 2 GB
    ("gcf", Limits(2, 5), (8, F("4.8"))),
    ("gcf", Limits(6, 16), (16, F("14.4"))),  # beyond the largest: as if it were on offer
    ("lambda", Limits(1, F(1, 2)), (F(1769, 1024), 1)),
    ("lambda", Limits(2, 4), (4, 2)),
    ("lambda", Limits(0, F("0.50001")), (F(513, 1024), 0)),
    ("knative", Limits(1, F(1, 3)), (F(1, 3), 1)),
])
def test_the_smallest_size_that_holds_it_is_paid_for(name, limits, size):
    assert load_prices(name).functions.size(limits) == size


def test_right_sizing_takes_the_peak_of_memory_and_the_threads(tmp_path):
    records = [made.record("transfer", "client-0000", 1.0, peak_memory=300 * 2**20, threads=2),
               made.record("transfer", "client-0001", 1.0, peak_memory=500 * 2**20, threads=1),
               made.record("aggregate", "server", 1.0, peak_memory=2**30),
               made.record("pretrain", "cnn2-128-256", 1.0, peak_memory=2**31)]
    the_run = made.run(tmp_path, FEDMD, records)
    needs = cost.right_sized(the_run)
    assert needs == {"client": (2, F(500, 1024)), "aggregator": (1, 1), "worker": (1, 2)}
    knative = load_prices("knative")
    hourly = 2 * (2 * F("0.02181159") + F(500, 1024) * F("0.00292353")) + 2 * F("0.02181159") + 3 * F("0.00292353")
    assert cost.total(the_run, knative, needs) == hourly / 3600 < cost.total(the_run, knative)


def test_a_bill_has_a_row_an_invocation_and_adds_up(tmp_path):
    table = cost.bill(made.run(tmp_path, FEDMD, RECORDS), load_prices("lambda"))
    assert table["usd"].sum() == pytest.approx(float(BY_HAND["lambda"] / 10**6), rel=1e-12)
    assert table.groupby("kind")["subject"].unique().map(list).to_dict() == {
        "client": ["client-0000", "client-0001"], "aggregator": ["server"], "worker": ["cnn2-128-256"]}
    by_step = table.groupby("step")["usd"].sum()
    assert by_step["aggregate"] == pytest.approx(0.2e-6 + 0.1 * 266.6672e-6, rel=1e-12)


OWN = """
provider = "our cluster"
region = "the cellar"
date = 2026-01-31
source = "our electricity bill"
[functions]
per = "hour"
gib = 0.36
step = 60
"""


def test_a_users_own_table_is_used_and_has_no_workers_apart(tmp_path):
    (tmp_path / "own.toml").write_text(OWN)
    own = load_prices(tmp_path / "own.toml")
    assert own.title == "our cluster, the cellar, 2026-01-31"
    assert own.of("worker") == own.of("client")
    # 61.2 s are two minutes of 16 GiB; five short calls a minute each, four of 4 GiB and one of 16
    assert cost.total(made.run(tmp_path, FEDMD, RECORDS), own) == F("0.36") / 60 * (2 * 16 + 4 * 4 + 16)


@pytest.mark.parametrize(("change", "says"), [
    (("gib = 0.36", "gib = -1"), r"own\.toml: functions\.gib: .*greater than or equal to 0"),
    (("gib = 0.36", "gib = nan"), r"functions\.gib: .*finite"),
    (("gib = 0.36", ""), r"functions\.gib: field required"),
    (("step = 60", "step = 0"), r"functions\.step: .*greater than 0"),
    (('"hour"', '"day"'), r"functions\.per: .*'second' or 'hour', not 'day'"),
    (("step = 60", "stepp = 60"), r"unknown setting 'functions\.stepp'"),
    (("date = 2026-01-31", 'date = "soon"'), r"date: "),
    (('source = "our electricity bill"', ""), r"source: field required"),
    (("[functions]", "[functions"), r"is not a TOML file"),
])
def test_a_table_that_cannot_be_is_refused_in_one_line(change, says, tmp_path):
    (tmp_path / "own.toml").write_text(OWN.replace(*change))
    with pytest.raises(KdlibError, match=says) as error:
        load_prices(tmp_path / "own.toml")
    assert "\n" not in str(error.value)


def test_an_unknown_name_and_a_missing_file_say_what_is_allowed(tmp_path):
    with pytest.raises(KdlibError, match=r"unknown prices 'azure'; allowed: gcf, knative, lambda, or the path of a"):
        load_prices("azure")
    with pytest.raises(KdlibError, match=r"cannot read the price table .*none\.toml: No such file"):
        load_prices(tmp_path / "none.toml")
