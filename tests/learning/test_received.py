"""What another party wrote is read as what it has to be; anything else is Damaged, and names object and owner."""

import math
import pickle
import time

import pytest
import torch

from functions import deployed, tiny
from kdlib.errors import Damaged, KdlibError, Missing
from kdlib.learning import client
from kdlib.learning.client import agreed, load, start
from kdlib.learning.received import read_logits, read_samples, read_tensors, read_weights
from kdlib.settings.experiment import make_experiment
from kdlib.store.store import Session

ONE, LOGITS, WEIGHTS, SAMPLES = "client-0001", "client-0001/001/logits", "client-0001/001/weights", \
    "client-0001/001/samples"
EXPERIMENT = tiny("feddf")
ROWS, CLASSES = 20, EXPERIMENT.classes
GOOD = torch.linspace(-3, 3, ROWS * CLASSES).reshape(ROWS, CLASSES)


@pytest.fixture
def store(tmp_path):
    return deployed(f"{tmp_path}/{{owner}}", EXPERIMENT)


def poisoned(value, place=(0, 0)):
    other = GOOD.clone()
    other[place] = value
    return {"logits": other}


def raises(read, name):
    with pytest.raises(Damaged) as error:
        read()
    said = str(error.value)
    assert name in said and ONE in said and "is damaged" in said and "\n" not in said and len(said) < 500
    assert error.value.damaged == name and pickle.loads(pickle.dumps(error.value)).damaged == name
    return said


@pytest.mark.parametrize(("tensors", "why"), [
    (poisoned(math.nan), "logits is not all finite"), (poisoned(math.inf, (19, 5)), "logits is not all finite"),
    (poisoned(-math.inf), "logits is not all finite"), ({"logits": torch.full_like(GOOD, math.nan)}, "not all finite"),
    ({"logits": GOOD[:1]}, f"logits is float32 [1, {CLASSES}]; allowed: float32 [{ROWS}, {CLASSES}]"),
    ({"logits": torch.tensor(0.0)}, "logits is float32 []"), ({"logits": GOOD.T.contiguous()}, "logits is float32 ["),
    ({"logits": GOOD.double()}, "logits is float64"), ({"logits": GOOD.half()}, "logits is float16"),
    ({"logits": GOOD.long()}, "logits is int64"), ({"logits": torch.empty(0)}, "logits is float32 [0]"),
    ({}, "it has no 'logits'"), ({"logit": GOOD}, "it has 'logit'"), ({"logits": GOOD, "more": GOOD[:0]}, "'more'"),
    ({"logits": GOOD.repeat(100, 1)}, "it has over "), ({"logits": GOOD, "x" * 9000: GOOD[:0]}, "it has over "),
    (None, "it is not there"),
])
def test_logits_are_those_of_the_rounds_sample(tensors, why, store):
    if tensors is not None:
        store.put(LOGITS, tensors)
    assert why in raises(lambda: read_logits(EXPERIMENT, store, ONE, 1), LOGITS)
    store.put(LOGITS, {"logits": GOOD})
    assert torch.equal(read_logits(EXPERIMENT, store, ONE, 1), GOOD)


def test_a_large_value_is_no_infinite_one(store):
    store.put(LOGITS, {"logits": torch.full_like(GOOD, 3e38)})
    assert read_logits(EXPERIMENT, store, ONE, 1).isfinite().all()


@pytest.mark.parametrize(("change", "why"), [
    (lambda own: own | {"linear.weight": own["linear.weight"] * math.nan}, "linear.weight is not all finite"),
    (lambda own: own | {"linear.weight": own["linear.weight"][:-1]}, "linear.weight is float32"),
    (lambda own: own | {"linear.weight": own["linear.weight"].double()}, "linear.weight is float64"),
    (lambda own: {key: value for key, value in own.items() if key != "linear.weight"}, "it has no 'linear.weight'"),
    (lambda own: own | {"backdoor": torch.zeros(1)}, "it has 'backdoor'"),
    (lambda own: {key: -value - 1 if key.endswith("running_var") else value for key, value in own.items()},
     "running_var is below 0"),
    (lambda own: {key: value - 9 if key.endswith("num_batches_tracked") else value for key, value in own.items()},
     "num_batches_tracked is below 0"),
    (lambda own: start(EXPERIMENT, "client-0000").state_dict(), "it has "),
])
def test_weights_are_those_of_the_clients_architecture(change, why, store):
    own = start(EXPERIMENT, ONE).state_dict()
    store.put(WEIGHTS, own)
    assert read_weights(EXPERIMENT, store, ONE, WEIGHTS).keys() == own.keys()
    store.put(WEIGHTS, change(own))
    assert why in raises(lambda: read_weights(EXPERIMENT, store, ONE, WEIGHTS), WEIGHTS)


@pytest.mark.parametrize("said", [-1, 0, 19, 21, 10**15, -(2**63)])
def test_samples_are_those_of_the_partition(said, store):
    store.put(SAMPLES, {"samples": torch.tensor(20)})
    assert read_samples(store, ONE, 1) == 20
    store.put(SAMPLES, {"samples": torch.tensor(said)})
    assert f"it says {said} items, and the partition 20" in raises(lambda: read_samples(store, ONE, 1), SAMPLES)


@pytest.mark.parametrize("samples", [torch.tensor(20.0), torch.tensor([20]), torch.tensor(math.nan)])
def test_samples_are_one_whole_number(samples, store):
    store.put(SAMPLES, {"samples": samples})
    raises(lambda: read_samples(store, ONE, 1), SAMPLES)


def test_the_aggregators_are_read_as_well(store):
    store.put("public/001/teacher", poisoned(math.nan))
    with pytest.raises(Damaged, match=r"public/001/teacher .* public should have written: logits is not all finite"):
        read_logits(EXPERIMENT, store, "public", 1, "teacher", items=ROWS)
    with pytest.raises(Missing):  # which is no client's fault, and may come yet
        read_logits(EXPERIMENT, store, "public", 2, "teacher", items=ROWS)
    store.put_json("aggregator/sizes", {"clients": 3, "public": "many"})
    with pytest.raises(Damaged, match="it says no sizes"):
        read_samples_of_a_good_client(store)


def read_samples_of_a_good_client(store):
    store.put(SAMPLES, {"samples": torch.tensor(20)})
    return read_samples(store, ONE, 1)


def test_a_clients_own_weights_may_have_diverged_and_anothers_not(store):
    weights = {key: value * math.nan if value.is_floating_point() else value
               for key, value in start(EXPERIMENT, ONE).state_dict().items()}
    store.put(WEIGHTS, weights)
    assert load(EXPERIMENT, store, ONE, WEIGHTS).state_dict().keys() == weights.keys()
    store.put("public/001/weights", weights)
    with pytest.raises(Damaged, match="not all finite"):
        load(EXPERIMENT, store, ONE, "public/001/weights")
    store.put(WEIGHTS, weights | {"more": torch.zeros(1)})
    with pytest.raises(Damaged, match="it has 'more'"):
        load(EXPERIMENT, store, ONE, WEIGHTS)


def test_a_fused_step_reads_the_same_way(store):
    session = Session(store, ())
    store.put(LOGITS, poisoned(math.nan))
    raises(lambda: read_logits(EXPERIMENT, session, ONE, 1), LOGITS)


def test_what_is_far_too_large_is_not_read(store, monkeypatch):
    store.put(LOGITS, {"logits": torch.zeros(10**6)})
    before = store.bytes_in
    raises(lambda: read_logits(EXPERIMENT, store, ONE, 1), LOGITS)
    assert store.bytes_in - before < 10_000


def test_a_large_object_is_checked_in_milliseconds(store):
    large = {"x": torch.randn(5_000_000)}
    store.put("client-0001/001/large", large)
    store.get("client-0001/001/large")

    def seconds(read):
        found = []
        for _ in range(5):
            clock = time.perf_counter()
            read()
            found.append(time.perf_counter() - clock)
        return min(found)

    plain = seconds(lambda: store.get("client-0001/001/large"))
    assert seconds(lambda: read_tensors(store, "client-0001/001/large", large)) < plain + 0.05


LINE = [torch.tensor([[float(number), 1.0]]) for number in (1, 2, 3, 4, 90)]


@pytest.mark.parametrize(("how", "tensors", "right"), [
    ("plain", LINE, 20.0), ("trimmed", LINE, 3.0), ("median", LINE, 3.0), ("median", LINE[1:], 3.5),
    ("median", LINE[2:], 4.0), ("trimmed", LINE[2:], 4.0), ("trimmed", LINE[::-1], 3.0), ("plain", LINE[:1], 1.0),
])
def test_what_clients_agree_on(how, tensors, right):
    assert agreed(tensors, how).tolist() == [[right, 1.0]] and agreed(tensors, how).dtype == torch.float32


def test_of_ten_clients_two_on_each_side_are_left_out():
    tensors = [torch.tensor([float(number)]) for number in (-1000, -1000, 1, 2, 3, 4, 5, 6, 1000, 1000)]
    assert agreed(tensors, "trimmed").tolist() == [3.5] and agreed(tensors, "plain").tolist() == [pytest.approx(2.1)]


@pytest.mark.parametrize("how", ["trimmed", "median"])
def test_two_clients_cannot_outvote_one(how):
    with pytest.raises(KdlibError, match=f"mean {how}: 2 clients are left"):
        agreed(LINE[:2], how)
    with pytest.raises(KdlibError, match=f"mean is {how}, and 2 clients a round take part; allowed: 3"):
        tiny("fedmd", mean=how)
    with pytest.raises(KdlibError, match=f"mean is {how}, and 2 clients a round"):
        tiny("feddf", clients=4, mean=how)


def test_plain_is_the_mean_bit_by_bit_and_leaves_keys_as_they_were():
    tensors = [torch.randn(7, 3, generator=torch.Generator().manual_seed(seed)) for seed in range(5)]
    assert torch.equal(agreed(tensors), client.mean(tensors))
    for strategy in ("fedmd", "feddf"):
        made = {how: make_experiment("digits", strategy, 1.0, profile="smoke", mean=how) for how in ("plain", "median")}
        default = make_experiment("digits", strategy, 1.0, profile="smoke")
        assert made["plain"].key({}) == default.key({}) != made["median"].key({})
