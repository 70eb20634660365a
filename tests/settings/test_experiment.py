import hashlib
import json

import numpy as np
import pydantic
import pytest

from kdlib import machine as machine_module
from kdlib.errors import KdlibError
from kdlib.registry import STRATEGIES
from kdlib.settings.architectures import TEXT_ZOO, ZOO
from kdlib.settings.experiment import from_json, make_experiment
from kdlib.settings.profiles import OF_ITEMS, PROFILES
from kdlib.settings.task import BUILT_IN
from kdlib.strategies.fedmd import FedMD

NAMES = STRATEGIES.names()
HASHES = {"private.x": "ab", "public.x": "cd"}

OTHER = {
    "seed": 1, "clients": 7, "rounds": 4, "architectures": ("cnn2-128-256",), "width": 0.5, "samples": 99,
    "test_items": 99, "evaluate_every": 3, "batch": 16, "learning_rate": 0.01, "optimizer": "sgd", "device": "cuda",
    "batch_norm_momentum": 0.2, "threads": 2,
    "public_items": 99, "alignment_items": 99, "pretrain_epochs": 9, "pretrain_batch": 9, "pretrain_patience": 9,
    "transfer_epochs": 9, "transfer_patience": 9, "min_delta": 0.5, "digest_epochs": 9, "digest_batch": 9,
    "revisit_epochs": 9, "transfer": "lost", "alignment": "permuted", "local_epochs": 9, "clients_per_round": 5,
    "validation_items": 99, "distil_batch": 9, "distil_batches": 9, "score_every": 9, "patience": 9,
    "teachers": "recomputed", "kl": "reverse", "mean": "median", "precision": "bf16", "selection": "behaviour",
    "durations": "measured",
    "slow": {"share": 0.5, "factor": 2}, "fail": {"share": 0.5},
}
APART = {"strategy", "task", "alpha"}
OF_TEXTS = {"windows": "recent"}

# A default never changes once published: keys leave defaults out, so another default would give two results one key.
# A new setting gets a line here; the other lines stay as they are.
EVERY = {
    "seed": 0, "clients": 100, "rounds": 20,
    "architectures": ("cnn2-128-256", "cnn2-128-512", "cnn3-64-128-256", "cnn3-128-192-256", "cnn4-64-64-64-256",
                      "cnn4-128-192-256-256"),
    "width": 1.0, "samples": None, "windows": "drawn", "test_items": None, "batch": 32, "learning_rate": 1e-3,
    "evaluate_every": 1,
    "optimizer": "adam", "batch_norm_momentum": 0.01, "threads": 1, "device": "cpu", "precision": "fp32",
}
CHOSEN = {"selection": "round-robin", "durations": "modelled", "slow": None, "fail": None}
DEFAULTS = {
    "fedmd": EVERY | {
        "public_items": None, "alignment_items": 5000, "pretrain_epochs": 20,
        "pretrain_batch": 128, "pretrain_patience": 8, "transfer_epochs": 25, "transfer_patience": 10,
        "min_delta": 1e-3, "digest_epochs": 1, "digest_batch": 256, "revisit_epochs": 2, "transfer": "used",
        "alignment": "aligned", "mean": "plain",
    },
    "feddf": EVERY | {
        "clients_per_round": 20, "local_epochs": 5, "public_items": None, "alignment_items": 5000,
        "validation_items": None, "distil_batch": 128, "distil_batches": 1000, "score_every": 50, "patience": 5,
        "teachers": "shared", "kl": "forward", "mean": "plain", **CHOSEN,
    },
    "alone": EVERY | {"local_epochs": 5},
    "fedavg": EVERY | {"clients_per_round": 20, "local_epochs": 5, **CHOSEN},
}


def smoke(strategy="fedmd", alpha=1.0, **settings):
    return make_experiment("digits", strategy, alpha, profile="smoke", **settings)


def fields_of(strategy):
    """The settings that the strategy has."""
    return STRATEGIES.find(strategy).value.settings.model_fields


def own(strategy, profile):
    """What a profile says of images, the strategy's own words among it."""
    return PROFILES[profile] | OF_ITEMS["image"].get(profile, {}) | STRATEGIES.find(strategy).value.profiles.get(
        profile, {})


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_sets_only_what_some_strategy_has(profile):
    somewhere = {name for strategy in NAMES for name in fields_of(strategy)}
    assert set(PROFILES[profile]) <= somewhere
    assert all(set(of_items.get(profile, {})) <= somewhere for of_items in OF_ITEMS.values())


@pytest.mark.parametrize("strategy", NAMES)
def test_a_strategys_own_profiles_set_only_what_it_has(strategy):
    declared = STRATEGIES.find(strategy).value
    for profiles in (declared.profiles, declared.text_profiles):
        assert set(profiles) <= set(PROFILES)
        assert {name for profile in profiles.values() for name in profile} <= set(fields_of(strategy))


@pytest.mark.parametrize("strategy", NAMES)
@pytest.mark.parametrize("task", ["mnist", "cifar", "shakespeare"])
def test_narrow_is_the_papers_protocol_but_for_the_width_and_the_test_items(task, strategy):
    narrow, paper = (make_experiment(task, strategy, profile=profile) for profile in ("narrow", "paper"))
    others = {"width": 0.25 if task == "shakespeare" else 0.125, "test_items": 2000}
    assert narrow == paper.model_copy(update=others) != paper


@pytest.mark.parametrize("strategy", NAMES)
@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_suits_every_strategy(profile, strategy):
    experiment = make_experiment("digits", strategy, 0.1, seed=3, profile=profile)
    fields = type(experiment).model_fields
    expected = {name: value for name, value in own(strategy, profile).items() if name in fields}
    assert {name: getattr(experiment, name) for name in expected} == expected
    assert from_json(experiment.model_dump_json()) == experiment


def test_alpha_is_the_images_and_no_texts():
    images, texts = make_experiment("digits", "feddf"), make_experiment("shakespeare", "feddf", seed=3)
    assert (images.alpha, images.title) == (0.1, "digits feddf alpha 0.1 seed 0")
    assert (texts.alpha, texts.title) == (None, "shakespeare feddf seed 3")
    assert images == make_experiment("digits", "feddf", 0.1) and from_json(texts.model_dump_json()) == texts
    with pytest.raises(KdlibError, match="task shakespeare has no alpha, its owners are the clients; allowed: none"):
        make_experiment("shakespeare", "feddf", 0.1)
    with pytest.raises(pydantic.ValidationError, match="task digits has no alpha; allowed: a number above 0"):
        type(images)(**images.model_dump() | {"alpha": None})


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("strategy", NAMES)
def test_every_profile_suits_texts_too(profile, strategy):
    experiment = make_experiment("shakespeare", strategy, profile=profile)
    assert experiment.classes == 82 and set(experiment.architectures) <= set(TEXT_ZOO)
    assert experiment.evaluated == experiment.client_names
    assert make_experiment("digits", strategy, profile=profile).evaluated[0].startswith("cnn")
    assert profile != "paper" or experiment.architectures == TEXT_ZOO


@pytest.mark.parametrize(("task", "architecture"), [("digits", "lstm1-128"), ("shakespeare", "cnn2-128-256")])
def test_a_model_of_the_other_kind_is_refused(task, architecture):
    takes, such = {"digits": ("texts", "cnn2"), "shakespeare": ("images", "lstm1")}[task]
    with pytest.raises(KdlibError, match=f"architecture {architecture} takes {takes}, task {task} has items of kind "
                                         f"[a-z]+; allowed: such as {such}-"):
        make_experiment(task, "fedmd", architectures=[architecture])


def test_what_a_task_asks_for_holds_where_nobody_says_otherwise():
    paper = make_experiment("cifar", "fedmd", 1.0, profile="paper")
    assert paper.architectures == ZOO[:5] and paper.revisit_epochs == 4 and paper.classes == 16
    assert make_experiment("cifar", "feddf", 1.0, profile="paper").architectures == ZOO[:5]
    smoke = make_experiment("cifar", "fedmd", 1.0, profile="smoke")
    assert smoke.architectures == own("fedmd", "smoke")["architectures"]
    assert make_experiment("cifar", "fedmd", 1.0, revisit_epochs=2).revisit_epochs == 2
    assert make_experiment("mnist", "fedmd", 1.0, profile="paper").revisit_epochs == 2


def test_a_task_that_asks_for_what_no_strategy_has_is_refused(tmp_path):
    text = (BUILT_IN / "digits.toml").read_text()
    (tmp_path / "own.toml").write_text(text + "[settings]\nrevisit_epcohs = 4\n")
    with pytest.raises(KdlibError, match="task digits asks for settings that no strategy has: revisit_epcohs"):
        make_experiment(str(tmp_path / "own.toml"), "fedmd", 1.0)


def test_settings_win_over_the_profile():
    assert smoke(clients=4).clients == 4 != PROFILES["smoke"]["clients"]


@pytest.mark.parametrize("strategy", NAMES)
def test_every_field_decides_the_key(strategy):
    experiment = smoke(strategy)
    names = set(type(experiment).model_fields) - APART - set(OF_TEXTS)
    assert names <= set(OTHER), "a new field needs another value in OTHER"
    keys = {smoke(strategy, **{name: OTHER[name]}).key(HASHES) for name in names}
    keys |= {smoke(strategy, alpha=2.0).key(HASHES), experiment.key(HASHES), experiment.key(HASHES | {"test.x": "ef"}),
             experiment.key(HASHES | {"public.x": "ce"})}
    assert len(keys) == len(names) + 4


@pytest.mark.parametrize(("name", "value"), OF_TEXTS.items())
def test_every_field_of_texts_decides_the_key(name, value):
    one, other = (make_experiment("shakespeare", "feddf", profile="smoke", **more) for more in ({}, {name: value}))
    assert one.key(HASHES) != other.key(HASHES)


@pytest.mark.parametrize("strategy", NAMES)
def test_no_default_has_changed(strategy):
    fields = fields_of(strategy)
    assert {name: field.default for name, field in fields.items()
            if not field.is_required()} == DEFAULTS[strategy] | {"alpha": None}
    assert {name for name, field in fields.items() if field.is_required()} == {"strategy", "task"}


@pytest.mark.parametrize("strategy", NAMES)
def test_the_key_is_of_the_strategy_and_what_is_not_a_default(strategy):
    def by_hand(**settings):
        private, public = ({"name": "digits", "classes": classes} for classes in ([0, 1, 2, 3, 4, 5], [6, 7, 8, 9]))
        task = {"name": "digits", "shape": [28, 28], "private": private, "public": public}
        text = json.dumps([{"alpha": 0.5, "strategy": strategy, "task": task} | settings, HASHES], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def key(**settings):
        return make_experiment("digits", strategy, 0.5, profile="paper", **settings).key(HASHES)

    defaults = {name: value for name, value in DEFAULTS[strategy].items() if name != "seed"}
    assert key() == key(**defaults) == by_hand()
    assert key(width=0.5, rounds=3) == by_hand(width=0.5, rounds=3)


def test_a_setting_added_later_keeps_the_earlier_keys():
    class Later(FedMD):
        added: str = "as before"

    def key(kind, **settings):
        return kind(strategy="fedmd", task=smoke().task, alpha=1.0, clients=7, **settings).key(HASHES)

    assert key(Later) == key(Later, added="as before") == key(FedMD) != key(Later, added="other")


@pytest.mark.parametrize(("flags", "precision"), [(["amx_bf16", "avx512_bf16"], "bf16"), (["avx512_bf16"], "fp32")])
def test_precision_auto_is_resolved_before_the_key_and_is_bf16_only_with_amx(flags, precision, monkeypatch):
    monkeypatch.setattr(machine_module, "machine", lambda: {"flags": flags})
    found, wanted = smoke(precision="auto"), smoke(precision=precision)
    assert found == wanted and found.key(HASHES) == wanted.key(HASHES)


def test_strategy_and_classes_decide_the_key_and_words_do_not():
    experiment = smoke()
    task = experiment.task
    fewer = task.model_copy(update={"public": task.public.model_copy(update={"classes": (6, 7)})})
    other_words = task.model_copy(update={"about": "said otherwise"})
    keys = {make_experiment(which, "fedmd", 1.0, profile="smoke").key(HASHES) for which in (task, fewer)}
    assert len(keys | {smoke(strategy).key(HASHES) for strategy in NAMES}) == 1 + len(NAMES)
    assert make_experiment(other_words, "fedmd", 1.0, profile="smoke").key(HASHES) == experiment.key(HASHES)
    assert experiment.key(dict(reversed(HASHES.items()))) == experiment.key(HASHES)


@pytest.mark.parametrize(("settings", "says"), [
    ({"strategy": "fedmx"}, r"unknown strategy 'fedmx' \(did you mean fedmd\?\); allowed: alone, fedavg, feddf, "
                              r"fedmd; or one of your own as package.module:NAME, or registered by a file: `--plugin "),
    ({"profile": "smok"}, r"unknown profile 'smok' \(did you mean smoke\?\); allowed: paper, narrow, laptop, smoke"),
    ({"clinets": 3}, r"unknown setting 'clinets' for fedmd \(did you mean clients\?\); allowed: alignment, .*width"),
    ({"strategy": "alone", "kl": "reverse"}, "unknown setting 'kl' for alone"),
    ({"strategy": "feddf", "kl": "backward"}, "kl: .*'forward' or 'reverse', not 'backward'"),
    ({"alpha": 0}, "alpha: .*greater than 0, not '0'"),
    ({"alpha": float("nan")}, "alpha: "),
    ({"seed": -1}, "seed: .*greater than or equal to 0"),
    ({"rounds": 1000}, "rounds: .*less than or equal to 999"),
    ({"rounds": "many"}, "rounds: .*integer"),
    ({"architectures": ("cnn2-8",)}, "architectures.0: 'cnn2-8' is no architecture; allowed: cnn2-N-N, cnn3-N-N-N"),
    ({"architectures": ("cnn2-8-0",)}, "'cnn2-8-0' is no architecture"),
    ({"architectures": ("cnn9-8-8",)}, "'cnn9-8-8' is no architecture; allowed: .*package.module:NAME, or a plugin's"),
    ({"architectures": ()}, "architectures: .*at least 1"),
    ({"architectures": ("cnn2-8-8", "cnn2-8-8")}, "named twice, .*: cnn2-8-8, cnn2-8-8"),
    ({"clients": 2}, "2 clients cannot have 3 architectures; allowed: clients of at least 3"),
    ({"strategy": "feddf", "clients_per_round": 2}, "clients_per_round is 2; allowed: 3 .* to 6"),
    ({"strategy": "fedavg", "clients_per_round": 7}, "clients_per_round is 7; allowed: 3 .* to 6"),
    ({"device": "tpu"}, "device: .*'cpu', 'cuda' or 'mps', not 'tpu'"),
    ({"optimizer": "adagrad"}, "optimizer: .*'adam', 'rmsprop' or 'sgd', not 'adagrad'"),
    ({"architectures": ("CNN2-8-8",)}, "architectures.0: 'CNN2-8-8' is no architecture; allowed: "),
    ({"strategy": "feddf", "selection": "best"}, "selection: .*'round-robin', 'random' or 'behaviour', not 'best'"),
    ({"strategy": "feddf", "slow": {"share": 2, "factor": 2}}, "slow.share: .*less than or equal to 1"),
    ({"strategy": "feddf", "slow": {"share": 0.1, "factor": 0.5}}, "slow.factor: .*greater than or equal to 1"),
    ({"strategy": "feddf", "slow": {"share": 0.1}}, "slow.factor: field required"),
    ({"strategy": "feddf", "fail": {"share": 0.1, "often": 1}}, "unknown setting 'fail.often'"),
    ({"strategy": "feddf", "durations": "measured", "fail": {"share": 0.1}}, "allowed: durations modelled, or neither"),
    ({"selection": "behaviour"}, "unknown setting 'selection' for fedmd"),
    ({"samples": 1}, "samples: .*greater than or equal to 2"),
    ({"batch": 1}, "batch: .*greater than or equal to 2"),
    ({"alignment_items": 1}, "alignment_items: .*greater than or equal to 2"),
    ({"public_items": 9}, "public_items: .*greater than or equal to 10"),
])
def test_what_cannot_be_is_refused_in_one_line(settings, says):
    wanted = {"strategy": "fedmd", "alpha": 1.0, "profile": "smoke"} | settings
    with pytest.raises(KdlibError, match=says) as error:
        make_experiment("digits", **wanted)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("text", "says"), [
    ("", "not an experiment: Invalid JSON"), ("{}", "not an experiment: strategy: field required"),
    ('{"strategy": ["fedmd"]}', "not an experiment: strategy: input should be a valid string"),
    ('{"strategy": "fedmx"}', r"unknown strategy 'fedmx' \(did you mean fedmd"),
    ('{"strategy": "fedmd", "alpha": 1}', "not an experiment: task: field required"),
])
def test_other_json_is_no_experiment(text, says):
    with pytest.raises(KdlibError, match=says) as error:
        from_json(text)
    assert "\n" not in str(error.value)


def test_an_experiment_is_frozen():
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        smoke().rounds = 5


def test_clients_take_architectures_in_turn():
    experiment = smoke(clients=5)
    first, second, third = experiment.architectures
    assert experiment.client_names == tuple(f"client-000{index}" for index in range(5))
    found = [experiment.architecture_of(name) for name in experiment.client_names]
    assert found == [first, second, third, first, second]
    assert experiment.architecture_of(third) == third


@pytest.mark.parametrize(("strategy", "classes"), [("fedmd", 10), ("feddf", 6), ("alone", 6), ("fedavg", 6)])
def test_only_fedmd_has_outputs_for_public_classes(strategy, classes):
    assert smoke(strategy).classes == classes


def test_random_numbers_depend_on_seed_round_subject_and_purpose_alone():
    base = (0, 1, "client-0001", "train")
    other = smoke("feddf", rounds=9, clients=8, alpha=0.1, clients_per_round=8)

    def draw(experiment, seed, *what):
        return tuple(experiment.model_copy(update={"seed": seed}).rng(*what).integers(2**32, size=4))

    assert draw(smoke(), *base) == draw(other, *base)
    changed = [(1, *base[1:]), (0, 2, *base[2:]), (0, 1, "client-0002", "train"), (*base[:3], "order")]
    assert len({draw(smoke(), *what) for what in [base, *changed]}) == 5


def test_entropy_fits_every_generator():
    values = [smoke().entropy(round_, "server", "alignment") for round_ in range(200)]
    assert all(0 <= value < 2**63 for value in values) and len(set(values)) == 200
    assert np.mean(values) / 2**62 == pytest.approx(1, abs=0.15)
