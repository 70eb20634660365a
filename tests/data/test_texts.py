import functools
import gzip
import json
import re

import numpy as np
import pytest

from kdlib.data import sets, texts
from kdlib.data.texts import Windows
from kdlib.errors import KdlibError
from kdlib.settings.experiment import make_experiment
from kdlib.settings.vocabulary import encode

packed = functools.partial(gzip.compress, mtime=0)  # tests are the same whenever they are collected
TEXT = encode("To be, or not to be, that is the question: whether 'tis nobler in the mind to suffer " * 20)


def naive(text, size, step):
    """LEAF's loop over a text."""
    starts = range(0, len(text) - size, step)
    return [(text[at : at + size], text[at + size], at) for at in starts]


@pytest.mark.parametrize(("length", "size", "step"), [
    (300, 80, 1), (300, 80, 3), (299, 80, 3), (298, 80, 3), (81, 80, 1), (82, 80, 3), (80, 80, 1), (10, 80, 1),
    (0, 5, 2)])
def test_windows_are_those_of_a_loop(length, size, step):
    text = TEXT[:length].tolist()
    expected, windows = naive(text, size, step), Windows(TEXT[:length], size, step)
    assert windows.number == len(expected)
    found = windows.take(np.arange(windows.number))
    assert found.x.dtype == np.int8 and found.y.dtype == found.at.dtype == np.int64 and found.owner is None
    assert found.x.shape == (len(expected), size)
    for x, y, at, wanted in zip(*found[:3], expected, strict=True):
        assert (x.tolist(), y, at) == wanted


@pytest.mark.parametrize("length", [100, 500, 1190, 1191, 1600])
def test_a_role_is_split_in_time_as_leaf_does(length):
    windows = Windows(TEXT[:length], 80)
    train, test = windows.by_time
    count = length - 80
    assert train.tolist() == list(range(int(0.9 * count)))
    assert test.tolist() == list(range(int(0.9 * count) + 79, count))
    if len(test):
        assert train[-1] + 80 <= test[0], "a window that trains overlaps one that tests"


@pytest.fixture
def here(own_texts, monkeypatch):
    """The own texts as KDLIB_DATA; makes experiments on them."""
    monkeypatch.setenv("KDLIB_DATA", str(own_texts))

    def experiment(strategy="feddf", seed=0, **settings):
        return make_experiment(str(own_texts / "own.toml"), strategy, seed=seed, profile="smoke", **settings)

    return experiment


def texts_of(own_texts):
    with gzip.open(own_texts / "plays.json.gz") as file:
        return json.load(file)


def at_home(split, lines):
    """Each window is where `at` says in the role's line, and its label follows it."""
    line = encode(re.sub(" +", " ", lines.replace("\n", " ")))
    return all((line[at : at + 20] == x).all() and line[at + 20] == y for x, y, at in zip(*split[:3], strict=True))


def test_a_role_is_a_client_with_test_windows_of_its_own(here, own_texts):
    drawn, roles = sets.prepare(here(samples=None, test_items=None)), texts_of(own_texts)
    assert len(set(drawn.roles)) == 4 and "PLAY_PAGE" not in drawn.roles
    for number, role in enumerate(drawn.roles):
        train, test = (split.take(split.owner == number) for split in (drawn.private, drawn.test))
        assert at_home(train, roles[role]) and at_home(test, roles[role])
        count = len(roles[role]) - 20
        assert train.at.tolist() == list(range(int(0.9 * count)))
        assert test.at.tolist() == list(range(int(0.9 * count) + 19, count)) and len(test.y) >= 8


def test_the_validation_windows_are_of_roles_that_are_no_clients(here, own_texts):
    drawn, roles = sets.prepare(here(validation_items=None)), texts_of(own_texts)
    others = [encode(roles[role]) for role in roles if role not in drawn.roles and role != "PLAY_PAGE"]
    assert len(others) == 2 and len(drawn.validation.y) == sum(len(line) - 20 for line in others)
    clients = [encode(roles[role]).tobytes() for role in drawn.roles]
    windows = [bytes([*x, y]) for x, y in zip(*drawn.validation[:2], strict=True)]
    assert all(any(window in line.tobytes() for line in others) for window in windows)
    assert not any(window in line for window in windows for line in clients)
    few = sets.prepare(here(validation_items=7)).validation
    assert len(few.y) == 7 and {bytes([*x, y]) for x, y in zip(*few[:2], strict=True)} <= set(windows)


def test_caps_draw_windows_in_their_order(here):
    drawn = sets.prepare(here(samples=30, test_items=5, public_items=40))
    for number in range(4):
        for split, items in ((drawn.private, 30), (drawn.test, 5)):
            at = split.take(split.owner == number).at
            assert len(at) == items and (np.diff(at) > 0).all() and (np.diff(at) > 1).any()
    assert len(drawn.public.y) == 40 and (drawn.public.at % 3 == 0).all()


def test_recent_windows_are_the_last_and_spread_ones_are_evenly_far_apart(here):
    every, recent, spread = (sets.prepare(here(samples=samples, windows=windows)).private
                             for samples, windows in ((None, "drawn"), (30, "recent"), (30, "spread")))
    for number in range(4):
        whole, last, apart = (split.take(split.owner == number).at for split in (every, recent, spread))
        assert last.tolist() == whole[-30:].tolist()
        assert len(apart) == 30 and (apart[0], apart[-1]) == (whole[0], whole[-1]) and np.ptp(np.diff(apart)) <= 1
    with pytest.raises(KdlibError, match=r"windows recent needs a task of texts and `samples`; allowed here: drawn"):
        here(samples=None, windows="recent")


def test_the_public_windows_are_the_first_of_the_first_four_fifths(here, own_texts):
    text = encode((own_texts / "book.txt").read_text())
    public = sets.prepare(here(public_items=None)).public
    assert public.at.tolist() == list(range(0, 600, 3)) and (public.x[7] == text[21:41]).all()
    own = (own_texts / "own.toml").read_text().replace("items = 200", "items = 10000")
    (own_texts / "all.toml").write_text(own)
    every = sets.prepare(make_experiment(str(own_texts / "all.toml"), "feddf", profile="smoke", public_items=None))
    assert len(every.public.y) == int(0.8 * len(range(0, len(text) - 20, 3)))


def test_a_seed_gives_every_strategy_the_same_roles_and_windows(here):
    feddf, fedmd, other = (sets.prepare(here(strategy, seed, samples=20))
                           for strategy, seed in (("feddf", 0), ("fedmd", 0), ("feddf", 1)))
    assert feddf.roles == fedmd.roles != other.roles and (feddf.private.x == fedmd.private.x).all()
    assert feddf.hashes == fedmd.hashes == other.hashes and len(fedmd.validation.y) == 0 < len(feddf.validation.y)


@pytest.mark.parametrize("file", ["plays.json.gz", "book.txt"])
def test_hashes_tell_any_changed_character(file, here, own_texts, tmp_path, monkeypatch):
    before = sets.prepare(here()).hashes
    roles, book = texts_of(own_texts), (own_texts / "book.txt").read_text()
    roles["PLAY_ROLE_3"] = roles["PLAY_ROLE_3"][:-1] + ("!" if file.startswith("plays") else roles["PLAY_ROLE_3"][-1])
    (tmp_path / "plays.json.gz").write_bytes(gzip.compress(json.dumps(roles).encode()))
    (tmp_path / "book.txt").write_text("!" + book[1:] if file == "book.txt" else book)
    monkeypatch.setenv("KDLIB_DATA", str(tmp_path))
    after = sets.prepare(here()).hashes
    assert [name for name in before if before[name] != after[name]] == [{"p": "private", "b": "public"}[file[0]]]


def test_too_few_roles_are_told_with_the_number_there_is(here):
    with pytest.raises(KdlibError, match=r"6 of 7 roles have 8 test windows.*; allowed: clients up to 5"):
        sets.prepare(here(clients=6))
    assert len(sets.prepare(here(clients=5)).roles) == 5


@pytest.mark.parametrize(("content", "says"), [
    (b"", "must hold one JSON object|damaged or no gzipped JSON"), (b"{}", "damaged or no gzipped JSON"),
    (packed(b"{"), "damaged or no gzipped JSON"), (packed(b'{"a": "b"}')[:-9], "damaged"),
    (packed(b"[1]"), "must hold one JSON object"), (packed(b'{"a": 1}'), "must hold one JSON object"),
    (packed(b"[" * 200_000), "damaged or no gzipped JSON"), (packed(b"{}"), "0 of 0 roles"),
])
def test_a_file_that_holds_no_roles_is_refused_in_one_line(content, says, here, own_texts, tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_DATA", str(tmp_path))
    (tmp_path / "plays.json.gz").write_bytes(content)
    (tmp_path / "book.txt").write_text("a" * 2000)
    with pytest.raises(KdlibError, match=says) as error:
        sets.prepare(here())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("content", "says"), [
    (b"\xff\xfe", "is no UTF-8 text"), (b"", "0 public items; allowed: at least 10"),
    ("ä".encode() * 999, "100% of the characters of public book are not in the vocabulary of task own; allowed: 10%")])
def test_a_file_that_is_no_text_is_refused_in_one_line(content, says, here, own_texts, tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_DATA", str(tmp_path))
    (tmp_path / "plays.json.gz").write_bytes((own_texts / "plays.json.gz").read_bytes())
    (tmp_path / "book.txt").write_bytes(content)
    with pytest.raises(KdlibError, match=says) as error:
        sets.prepare(here())
    assert "\n" not in str(error.value)


def test_a_file_that_would_fill_the_memory_is_refused(here, monkeypatch):
    monkeypatch.setattr(texts, "LARGEST", 1000)
    with pytest.raises(KdlibError, match="unpacks to more than"):
        sets.prepare(here())


def test_missing_texts_are_named_with_what_fetches_them(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_DATA", str(tmp_path))
    with pytest.raises(KdlibError, match=r"lacks nietzsche\.txt, shakespeare\.json\.gz; .*nietzsche shakespeare`"):
        sets.prepare(make_experiment("shakespeare", "fedmd"))


@pytest.fixture
def real():
    """The real texts as the shakespeare task has them, where they are."""
    if missing := [name for name in ("shakespeare.json.gz", "nietzsche.txt") if not (sets.folder() / name).is_file()]:
        pytest.skip(f"{', '.join(missing)} not in KDLIB_DATA or the user's cache")
    return (texts.read_roles(sets.folder() / "shakespeare.json.gz", 80),
            *texts.read_text(sets.folder() / "nietzsche.txt", 80, 3))


def test_the_real_texts_are_those_of_leaf_and_keras(real):
    roles, nietzsche, share = real
    assert len(roles) == 1129 and sum(windows.number for windows in roles.values()) == 4_226_158
    assert sum(len(windows.by_time[1]) >= 32 for windows in roles.values()) == 578
    dropped = sum(map((sets.folder() / "nietzsche.txt").read_text(encoding="utf-8").count, "_=äæëéÆ"))
    assert dropped > 0 and len(nietzsche.text) == 600_893 - dropped and (nietzsche.text > 1).all()
    assert share == dropped / 600_893 and all((windows.text > 1).mean() > 0.9 for windows in roles.values())


def test_the_paper_profile_takes_a_hundred_roles_and_ten_thousand_windows(real):
    drawn = sets.prepare(make_experiment("shakespeare", "feddf", profile="paper"))
    assert len(drawn.roles) == 100 and len(drawn.public.y) == 10_000 and len(drawn.validation.y) == 5000
    assert drawn.private.x.shape[1:] == (80,) and drawn.private.x.max() <= 81
