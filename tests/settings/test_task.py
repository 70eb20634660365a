import os

import pytest

from kdlib.errors import KdlibError
from kdlib.settings.experiment import make_experiment
from kdlib.settings.task import built_in, load_settings, load_task

GOOD = """
name = "own"
shape = [10, 12, 3]
[private]
name = "own"
classes = [2, 0]
[public]
name = "own"
classes = [1]
"""


@pytest.fixture
def write(tmp_path):
    def to_file(text):
        path = tmp_path / "own.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return to_file


@pytest.mark.parametrize("name", built_in())
def test_built_in_tasks_load_under_their_name(name):
    assert load_task(name).name == name


def test_image_is_channels_height_width(write):
    assert load_task("digits").image == (1, 28, 28)
    assert load_task(write(GOOD)).image == (3, 10, 12)


INSTEAD = """
[instead.fedmd.private]
name = "own"
classes = [1]
[instead.fedmd.public]
name = "other"
classes = [5]
[settings]
revisit_epochs = 4
"""


def test_a_strategy_may_have_other_data(write):
    path = write(GOOD + INSTEAD)
    usual, fedmd = load_task(path, "feddf"), load_task(path, "fedmd")
    assert (usual.private.classes, usual.public.name) == ((2, 0), "own") and usual == load_task(path)
    assert (fedmd.private.classes, fedmd.public.name) == ((1,), "other") and fedmd.image == usual.image
    assert load_task(f"{path}:fedmd", "alone") == fedmd and load_task(f"{path}:alone", "fedmd") == usual
    assert load_settings(f"{path}:fedmd") == {"revisit_epochs": 4} and load_settings("digits") == {}


def test_cifar_is_the_papers_for_either_strategy():
    fedmd, feddf = load_task("cifar", "fedmd"), load_task("cifar", "feddf")
    assert (fedmd.private.name, fedmd.private.classes) == ("cifar100", (0, 2, 20, 63, 71, 82))
    assert (fedmd.public.name, fedmd.public.classes) == ("cifar10", tuple(range(10)))
    assert (feddf.private.name, feddf.private.classes) == ("cifar10", tuple(range(10)))
    assert (feddf.public.name, feddf.public.classes) == ("cifar100", tuple(range(100)))
    assert load_task("cifar", "alone") == load_task("cifar", "fedavg") == feddf
    assert fedmd.image == feddf.image == (3, 32, 32)


TEXTS = """
name = "own"
window = 30
[private]
name = "plays"
[public]
name = "book"
"""


def test_a_task_of_texts_is_told_by_its_window(write):
    found, papers = load_task(write(TEXTS)), load_task("shakespeare", "fedmd")
    assert found.by_owners and found.shape == (30,) and found.items == "text" and found.outputs(True) == 82
    assert (found.private.least_test, found.public.step, found.public.items) == (32, 3, 10_000)
    assert (papers.window, papers.private.name, papers.public.name) == (80, "shakespeare", "nietzsche")
    assert not load_task("digits").by_owners and found.vocabulary == 82 and found.labelled_public


def test_only_a_strategy_may_follow_the_colon():
    with pytest.raises(KdlibError, match="'cifar:fedmx' names no strategy after its colon; allowed: alone, fedavg, "):
        load_task("cifar:fedmx")


@pytest.mark.parametrize(("text", "says"), [
    (TEXTS + INSTEAD, "instead: a task of texts has the same data for every strategy"),
    (TEXTS.replace("30", "1"), "window: .*greater than or equal to 2"),
    (TEXTS + "shape = [1, 2]", "unknown setting 'public.shape'"),
    (TEXTS + "items = 9", "public.items: .*greater than or equal to 10"),
    (GOOD + INSTEAD.replace("fedmd", "fedmx"), r"instead.fedmx: no such strategy \(did you mean fedmd\?\); allowed"),
    (GOOD + INSTEAD.partition("[instead.fedmd.public]")[0], "instead.fedmd.public: field required"),
    (GOOD.replace('name = "own"\nshape', 'shape'), "name: field required"),
    (GOOD.replace("shape", "sahpe"), "shape: field required|unknown setting 'sahpe'"),
    (GOOD.replace("[10, 12, 3]", "[]"), "shape: .*at least 1"),
    (GOOD.replace("[10, 12, 3]", "[10]"), r"shape \[10\] is none of items image; allowed: \[height, width\] or "),
    (GOOD.replace("[10, 12, 3]", "[10, 12, 3, 2]"), r"shape \[10, 12, 3, 2\] is none of items image"),
    (GOOD.replace("[10, 12, 3]", "[10, 513]"), r"shape \[10, 513\] is none of items image; .* each up to 512"),
    (GOOD.replace("shape", "items = 'sound'\nshape"), "items: .*'image', 'text' or 'other', not 'sound'"),
    (GOOD.replace("shape", "items = 'text'\nvocabulary = 9\nshape"), r"shape \[10, 12, 3\] is none of items text"),
    (GOOD.replace("[10, 12, 3]", "[10]\nitems = 'text'"), "a text has a vocabulary, anything else has none; allowed: "),
    (GOOD.replace("shape", "vocabulary = 9\nshape"), "a text has a vocabulary, anything else has none; allowed: "),
    (GOOD.replace("shape", "shared = 'roles'\nshape"), "shared: .*'dirichlet' or 'owners', not 'roles'"),
    (GOOD.replace("[1]", "[]"), r"classes all of own are both private and public"),
    (GOOD.replace("[10, 12, 3]", "[0, 12]"), "shape.0: .*greater than or equal to 1"),
    (GOOD.replace("[2, 0]", "[2, 2]"), "named twice"),
    (GOOD.replace("[2, 0]", "[]"), "private own has no classes; allowed: at least one"),
    (GOOD.replace("[2, 0]", "[-1]"), "private.classes.0: .*greater than or equal to 0"),
    (GOOD.replace("[2, 0]", "[1]"), r"classes \[1\] of own are both private and public"),
    (GOOD.replace('"own"', '"../own"'), "pattern"),
    ("name = ", "not a TOML file"),
    (b"\xff\xfe", "not a TOML file"),
    ("", "field required"),
    ("a = " + "[" * 20_000, "not a TOML file"),
    ("a" + ".a" * 20_000 + " = 1", "name: field required|unknown setting|not a TOML file"),
    (f"name = {'9' * 5000}", "not a TOML file: .*digits"),
    (f"shape = [0x{'f' * 9000}]\n" + GOOD.replace("shape = [10, 12, 3]", ""), "shape.0: .*too large to be shown"),
    (GOOD + "[settings]\nseed = 7", "settings.seed is none of a task's, each run is given its own; allowed: to leave "
                                    "it out, and `--seed 7` for a run"),
    (GOOD + "[settings]\nalpha = 0.5", "settings.alpha is none of a task's"),
    (GOOD + "[settings]\nstrategy = 'feddf'", "settings.strategy is none of a task's"),
    (GOOD + "#" * 2**20, "own.toml has more than 1,048,576 bytes; allowed: no more"),
    (GOOD.replace("[10, 12, 3]", "[3, 10, 12]"), "seems to have the channels first"),
    (TEXTS.replace("window", 'characters = "aab"\nwindow'), "characters: 'a' stand there twice; allowed: each"),
    (TEXTS.replace("window", 'characters = "a"\nwindow'), "characters: .*at least 2 characters"),
    (TEXTS.replace("window", "unknown = 2\nwindow"), "unknown: .*less than or equal to 1"),
    (GOOD.replace("shape", "pixels = 0\nshape"), "pixels: .*greater than or equal to 1"),
])
def test_a_bad_file_is_refused_in_one_line(text, says, write):
    with pytest.raises(KdlibError, match=says) as error:
        load_task(write(text))
    assert "\n" not in str(error.value) and "own.toml" in str(error.value)


def test_an_unknown_name_says_which_there_are():
    with pytest.raises(KdlibError, match=r"unknown task 'mnits'; allowed: .*digits, .*mnist.*, or the path of a"):
        load_task("mnits")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(KdlibError, match=r"cannot read the task file .*none\.toml: No such file"):
        load_task(str(tmp_path / "none.toml"))


def test_a_folder_is_no_task(tmp_path):
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(KdlibError, match="cannot read the task file"):
        load_task(str(tmp_path / "folder.toml"))


def test_a_pipe_and_a_device_are_no_tasks(tmp_path):
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "zeros.toml").symlink_to("/dev/zero")
    for name in ("pipe", "zeros"):
        with pytest.raises(KdlibError, match=rf"{name}\.toml is a pipe or a device; allowed: a file"):
            load_task(str(tmp_path / f"{name}.toml"))


def test_a_task_of_texts_may_bring_its_own_vocabulary(write):
    found = load_task(write(TEXTS.replace("window", 'characters = "абв \\n"\nunknown = 0.2\nwindow')))
    assert (found.characters, found.vocabulary, found.outputs(True), found.unknown) == ("абв \n", 7, 7, 0.2)


OTHER = """
name = "own"
items = "other"
shape = [6]
shared = "owners"
least_train = 5
[private]
name = "waves"
classes = [0, 1, 2]
[public]
name = "more-waves"
"""


def test_items_may_be_of_another_kind_with_owners_and_unlabelled_public_data(write):
    found = load_task(write(OTHER))
    assert (found.items, found.shape, found.vocabulary) == ("other", (6,), None)
    assert found.by_owners and not found.labelled_public and found.outputs(True) == found.outputs(False) == 3
    assert found.summary == ("private waves, 3 classes, by owners; public more-waves, unlabelled; items [6]")
    text = load_task(write(OTHER.replace('"other"', '"text"\nvocabulary = 50')))
    assert (text.items, text.vocabulary, text.shape) == ("text", 50, (6,))


def test_what_learns_public_labels_takes_no_unlabelled_public_data(write):
    path = write(GOOD.partition("[public]")[0].replace("10, 12", "28, 28") + '[public]\nname = "other"\n')
    with pytest.raises(KdlibError, match="fedmd learns from labelled public data, which task own has not; allowed: a "
                                         "public source with classes, or another strategy"):
        make_experiment(path, "fedmd")
    assert make_experiment(path, "feddf").classes == 2


def test_items_of_ones_own_kind_need_networks_of_ones_own(write):
    with pytest.raises(KdlibError, match="task own has items of its own kind, for which kdlib has no networks; "
                                         r"allowed: architectures=\[\.\.\.\] with networks of your own"):
        make_experiment(write(OTHER), "feddf")
