"""What objects are called: what is made is taken apart again, and nothing else is."""

import re

import pytest

from kdlib.settings.architectures import TEXT_ZOO, ZOO
from kdlib.store import names
from kdlib.store.store import Store

OWNERS = ["client-0000", "client-9999", "public", "aggregator"]


@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize("round_", [0, 1, 42, 999])
@pytest.mark.parametrize("kind", ["weights", "logits", "teacher", "resnet20", *ZOO, *TEXT_ZOO])
def test_what_is_made_is_taken_apart_again(owner, round_, kind):
    assert names.read(names.named(owner, round_, kind)) == (owner, round_, kind)


def test_names_are_those_that_runs_have_had_from_the_first():
    assert names.named("client-0003", 4, "weights") == "client-0003/004/weights"
    assert names.named("public", 12, "cnn2-128-256") == "public/012/cnn2-128-256"
    assert (names.public("data"), names.private("client-0001", "test")) == ("public/data", "private/client-0001/test")
    assert (names.selection(3), names.cohort(3)) == ("public/selection/003", "public/cohort/003")
    assert (names.VALIDATION, names.EXPERIMENT) == ("aggregator/validation", "public/experiment")


@pytest.mark.parametrize("name", [
    names.public("data"), names.private("client-0001", "data"), names.selection(1), names.cohort(1), names.VALIDATION,
    names.EXPERIMENT, names.SOURCES, names.record("client-0001", 3, "client-0001", "train"), "client-0001/3/weights",
    "client-0001/003", "client-0001/003/weights/more", "/003/weights", "",
])
def test_what_no_round_made_is_none_of_a_round(name):
    assert names.read(name) is None


@pytest.mark.parametrize("architecture", ["my_package.nets:Deep", "nets:Deep", "A.b.C:d_e"])
def test_an_architecture_by_reference_has_a_name_that_a_store_takes(architecture, tmp_path):
    name = names.named("public", 1, architecture)
    assert re.fullmatch(r"public/001/[a-z0-9_-]+", name)
    store = Store(str(tmp_path))
    store.put_json(name, {})
    assert store.names() == [f"{name}.json"]


STEPS = ["train", "digest", "re_visit", "revisit"]


def test_each_steps_record_has_a_name_of_its_own_that_a_store_takes(tmp_path):
    store = Store(str(tmp_path))
    made = {names.record("client-0001", round_, subject, step) for round_ in (1, 2) for step in STEPS
            for subject in ("client-0001", "client-0002")}
    assert len(made) == 2 * 2 * len(STEPS)
    for name in made:
        store.put_json(name, {})
    assert {name.removesuffix(".json") for name in store.names()} == made
