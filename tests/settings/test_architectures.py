import pytest

from kdlib.errors import KdlibError
from kdlib.registry import NETWORKS
from kdlib.settings.architectures import TEXT_ZOO, ZOO, Network, expect_architecture, forms, network, sized, word
from kdlib.settings.experiment import make_experiment
from kdlib.store import names


def build(task, classes, width, generator, *sizes):
    raise NotImplementedError


@pytest.mark.parametrize(("name", "of", "sizes"), [
    ("cnn2-128-256", "cnn2", (128, 256)), ("cnn4-1-2-3-4", "cnn4", (1, 2, 3, 4)), ("lstm1-8", "lstm1", (8,)),
    ("resnet8", "resnet8", ()), ("transformer2-32", "transformer2", (32,)),
])
def test_a_name_is_a_network_and_its_sizes(name, of, sizes):
    assert sized(name) == (of, sizes)
    found, numbers = network(name)
    assert found is NETWORKS.find(of).value and numbers == sizes and found.sizes == len(sizes)
    assert expect_architecture(name) == name


@pytest.mark.parametrize("name", [*ZOO, *TEXT_ZOO])
def test_the_papers_networks_are_there(name):
    assert expect_architecture(name) == name == word(name)


def test_the_forms_of_all_names_are_said():
    assert forms().startswith("cnn2-N-N, cnn3-N-N-N, cnn4-N-N-N-N, lstm1-N, lstm2-N, resnet8, resnet20, transformer2-N")
    assert all(said in forms() for said in ("N being filters or units", "package.module:NAME", "--plugin FILE.py"))


@pytest.mark.parametrize("name", ["cnn2", "cnn2-8", "cnn2-8-8-8", "cnn2-08-8", "cnn2-8-", "cnn2--8-8", "cnn2-8-1234567",
                                  "resnet8-16", "resnet9", "CNN2-8-8", "cnn2 8 8", "", "../cnn2", "transformer2"])
def test_what_is_no_architecture_is_refused_with_the_forms(name):
    with pytest.raises(ValueError, match=f"'{name}' is no architecture; allowed: cnn2-N-N, ") as error:
        expect_architecture(name)
    assert "\n" not in str(error.value)


def test_a_name_of_ones_own_may_have_sizes_or_end_in_a_number(plugin):
    NETWORKS.register("deep", Network(build, "image", 1))
    NETWORKS.register("deep-2", Network(build, "image"))
    assert sized("deep-3") == ("deep", (3,)) and sized("deep-2") == ("deep-2", ())
    assert expect_architecture("deep-2") == "deep-2"
    with pytest.raises(ValueError, match=r"'deep' is no architecture; allowed: .*deep-N, deep-2"):
        expect_architecture("deep")


def test_a_plain_function_is_a_network_of_any_items(plugin):
    NETWORKS.register("deep", build)
    assert network("deep") == (Network(build), ())
    for task in ("digits", "shakespeare"):
        assert make_experiment(task, "alone", profile="smoke", architectures=["deep"]).architectures == ("deep",)


@pytest.mark.parametrize("name", ["server", "public", "aggregator", "private", "client-0001"])
def test_no_architecture_has_an_owners_name(name, plugin):
    NETWORKS.register(name, build)
    with pytest.raises(ValueError, match=f"architecture {name} has the name of something else; allowed: another name"):
        expect_architecture(name)


@pytest.mark.parametrize(("strategy", "name"), [("feddf", "teacher"), ("feddf", "samples"), ("fedmd", "consensus"),
                                                ("fedmd", "digested")])
def test_no_architecture_has_the_name_of_what_a_round_leaves(strategy, name, plugin):
    """Its model would be stored over it, and be no part of the final bytes."""
    NETWORKS.register(name, build)
    with pytest.raises(KdlibError, match=f"architecture {name} has the name of something else; allowed: another name"):
        make_experiment("digits", strategy, profile="smoke", architectures=[name])
    assert make_experiment("digits", "alone", profile="smoke", architectures=[name])


def test_no_two_architectures_share_a_name_in_the_store(plugin):
    plugin("nets", "def Deep(num_classes): ...\ndef deep(num_classes): ...\n")
    assert names.named("public", 1, "nets:Deep") == names.named("public", 1, "nets:deep")
    with pytest.raises(KdlibError, match="named twice, or two would share their objects' names: nets:Deep, nets:deep"):
        make_experiment("digits", "feddf", profile="smoke", architectures=["nets:Deep", "nets:deep"])
