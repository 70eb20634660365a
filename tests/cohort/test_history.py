"""What is decided in a run is stored before it is acted on, and resume and replay follow it."""

import json

import pytest

import made
from kdlib.cohort import attendance, durations, history
from kdlib.cohort.attendance import in_time
from kdlib.cohort.history import History
from kdlib.cohort.selection import Past, round_robin
from kdlib.errors import KdlibError, Missing
from kdlib.invoke.perform import perform
from kdlib.runs import archive, run, runner
from kdlib.settings.experiment import make_experiment
from kdlib.store.names import selection
from kdlib.store.store import Store

# Nine clients of three architectures, six a round: three are slow, two fail.
TINY = {"clients": 9, "rounds": 6, "samples": 40, "local_epochs": 1, "public_items": 200, "alignment_items": 64,
        "test_items": 100, "distil_batches": 2, "score_every": 2}
AILING = {"selection": "behaviour", "slow": {"share": 1 / 3, "factor": 5}, "fail": {"share": 0.2}}


def experiment(**settings):
    return make_experiment("digits", "feddf", 1.0, profile="smoke", **TINY | AILING | settings)


ITEMS = dict.fromkeys(experiment().client_names, 40)


@pytest.fixture(scope="module")
def ailing(smoke):
    """A real run with slow and failing clients, selected by behaviour."""
    return smoke("feddf", **TINY | AILING)


def calls(the_run, repetition=1):
    """round -> the clients that a Record says trained."""
    found = {}
    for record in the_run.records(repetition):
        if record.step == "train":
            found.setdefault(record.round, set()).add(record.subject)
    return found


def test_a_run_calls_whom_its_simulation_does(ailing):
    table = history.simulate(ailing.experiment, ailing.partition.groupby("client")["items"].sum().to_dict())
    assert table["failed"].any() and table["slow"].any() and (table.groupby("round").size() == 6).all()
    assert calls(ailing) == table[~table["failed"]].groupby("round")["client"].agg(set).to_dict()
    for round_, called in table.groupby("round")["client"].agg(sorted).items():
        assert ailing.store.get_json(selection(round_)) == called


def test_a_failing_client_takes_no_part_and_is_written_down_as_missing(ailing):
    failing = durations.unreliable(ailing.experiment)
    assert len(failing) == 2 and failing.isdisjoint(set.union(*calls(ailing).values()))
    for round_, there in calls(ailing).items():
        chosen = ailing.store.get_json(selection(round_))
        assert set(in_time(ailing.store, round_, "train", chosen)) == there == set(chosen) - failing
    taught = {record.round: record.parts[0].metrics["clients"] for record in ailing.records() if record.step == "teach"}
    assert taught == {round_: len(there) for round_, there in calls(ailing).items()}


def test_nothing_sleeps(ailing):
    slow = ailing.table["subject"].isin(durations.slow(ailing.experiment))
    seconds = ailing.table.query("step == 'train'").groupby(slow)["seconds"].median()
    assert seconds[True] < 3 * seconds[False], "they are slow in the model, not here"


class Killed(Exception):
    """Stands for kill -9."""


@pytest.mark.parametrize("steps", [4, 21, 41])
def test_killed_at_any_moment_it_calls_the_same_clients_and_ends_with_the_same_bytes(steps, ailing, tmp_path,
                                                                                     monkeypatch):
    done = []

    def mortal(*arguments):
        if len(done) == steps:
            raise Killed
        done.append(arguments[2])
        return perform(*arguments)

    monkeypatch.setattr("kdlib.runs.invokers.INLINE.perform", mortal)
    with pytest.raises(Killed):
        runner.run(ailing.experiment, tmp_path, progress=False)
    monkeypatch.undo()
    again = runner.run(ailing.experiment, tmp_path, progress=False)
    assert again.result["final_bytes"] == ailing.result["final_bytes"] and calls(again) == calls(ailing)
    assert len(again.records()) == len(ailing.records())


def test_a_replay_follows_the_choices_and_ends_with_the_same_bytes(ailing):
    assert runner.again(ailing, progress=False) is True
    assert calls(ailing, 2) == calls(ailing)


@pytest.fixture
def measured(smoke):
    """A run whose choices depend on the clock."""
    return smoke("fedavg", **{"clients": 9, "rounds": 4, "samples": 40, "local_epochs": 1, "test_items": 100},
                 selection="behaviour", durations="measured")


def test_a_replay_follows_choices_that_the_clock_made(measured):
    expected = calls(measured)
    assert runner.again(measured, progress=False) is True and calls(measured, 2) == expected
    # another choice, as another machine's clock would have made it, is another result: so it is followed, not made anew
    other = sorted(set(measured.experiment.client_names) - expected[4])[0]
    rows = [json.loads(line) for line in (measured.folder / "records" / "inline-1.jsonl").open()]
    moved = next(row for row in rows if row["step"] == "train" and row["round"] == 4
                 and measured.experiment.architecture_of(row["subject"]) == measured.experiment.architecture_of(other))
    moved["subject"] = other
    (measured.folder / "records" / "inline-1.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(Missing, match=f"{other}/004/weights is not in"):  # which this run's own store cannot have
        runner.again(measured, progress=False)
    number = max(int(path.stem.partition("-")[2]) for path in (measured.folder / "records").iterdir())
    assert calls(measured, number)[4] == calls(measured)[4] and other in calls(measured, number)[4]


def test_a_kept_run_without_its_store_is_replayed_too(measured, tmp_path):
    archive.keep(measured, tmp_path)
    archive.restore(tmp_path, tmp_path / "runs")
    kept = run.load(tmp_path / "runs" / measured.key)
    assert not kept.store.names() and runner.again(kept, progress=False) is True


def test_measured_durations_are_those_of_the_records(tmp_path):
    several = experiment(selection="behaviour", durations="measured", slow=None, fail=None)
    store = Store(str(tmp_path))
    learns = History(several, store, {})
    first = learns.chosen(1)
    for seconds, client in enumerate(first, 1):
        learns.add(made.record("train", client, float(seconds)))
    learns.chosen(2)
    assert learns.pasts == dict.fromkeys(several.client_names, Past()) | {
        client: Past(((1, float(seconds)),)) for seconds, client in enumerate(first, 1)}


def test_a_choice_once_stored_stands(tmp_path):
    store = Store(str(tmp_path))
    store.put_json(selection(1), ["client-0000", "client-0001", "client-0002"])
    assert History(experiment(), store, ITEMS).chosen(1) == ("client-0000", "client-0001", "client-0002")
    first = History(experiment(), store, ITEMS).chosen(2)
    assert History(experiment(seed=5), store, ITEMS).chosen(2) == first, "whatever another history would have chosen"


def test_who_was_late_in_earnest_is_a_miss_too(tmp_path):
    store = Store(str(tmp_path))
    patient = experiment(slow=None, fail=None)
    learns = History(patient, store, ITEMS)
    first = learns.chosen(1)
    attendance.write(store, 1, "train", first[1:])
    learns.chosen(2)
    assert learns.pasts[first[0]] == Past((), (1,)) and learns.pasts[first[1]].missed == ()


def test_what_a_deadline_decided_is_not_undone_by_a_resume(tmp_path):
    store = Store(str(tmp_path))
    failing = experiment(fail={"share": 1, "rate": 0.5})
    first = History(failing, store, ITEMS).chosen(1)
    drawn = in_time(store, 1, "train", first)
    assert 1 < len(drawn) < len(first)
    attendance.write(store, 1, "train", drawn[:1])
    History(failing, store, ITEMS).chosen(1)
    assert in_time(store, 1, "train", first) == drawn[:1]


def test_a_round_in_which_all_calls_fail_is_told_in_one_line(tmp_path):
    with pytest.raises(KdlibError, match=r"round 1: the calls of all 6 clients fail; allowed: a smaller fail.share or"):
        runner.run(experiment(fail={"share": 1}), tmp_path, progress=False)


@pytest.mark.parametrize("strategy", ["fedmd", "alone"])
def test_a_strategy_that_calls_everybody_has_no_history(strategy, tmp_path):
    several = make_experiment("digits", strategy, 1.0, profile="smoke")
    with pytest.raises(KdlibError, match=f"{strategy} chooses no clients; allowed: a strategy with `selects`"):
        History(several, Store(str(tmp_path)), {})
    assert history.in_turn(several)(2) == several.client_names


def test_a_forecast_decides_nothing(tmp_path):
    store = Store(str(tmp_path))
    learns = History(experiment(), store, ITEMS)
    assert learns.forecast(2) == round_robin(experiment(), 2) and store.names() == []
    assert history.in_turn(experiment())(2) == round_robin(experiment(), 2)
    first = learns.chosen(1)
    assert learns.forecast(1) == first


@pytest.mark.parametrize("strategy", ["fedmd", "alone"])
def test_where_clients_missed_a_step_a_replay_leaves_them_out_of_it(strategy, tmp_path):
    several = make_experiment("digits", strategy, 1.0, profile="smoke", clients=3, rounds=2)
    first, second, third = several.client_names
    step = {"fedmd": "digest", "alone": "train"}[strategy]
    records = [made.record(step, client, 1.0, round_) for round_, client in
               ((1, first), (1, third), (2, first), (2, second), (2, third))]
    store = Store(str(tmp_path))
    history.follow(several, store, records)
    assert in_time(store, 1, step, several.client_names) == [first, third]
    assert in_time(store, 2, step, several.client_names) == [first, second, third]
    assert store.names() == ["public/cohort/001.json"]
