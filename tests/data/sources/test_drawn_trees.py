"""What is read and what is left out of a folder is what is there, of trees drawn at random. Oracle: another walk, link by link."""

import itertools
import os
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from data.config import STREAMS
from data.errors import InputError
from data.images.intake import survey
from data.source import load
from tests.data.sources.test_layouts import grow

_numbers = itertools.count()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("CILBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))


NAME = st.sampled_from(["ant", "bee", "train", "test", "val", "deep", ".hid", "@eaDir", "1", "__MACOSX"])
LEAF = st.sampled_from(["1.png", "2.jpg", "3", ".4.png", "5.txt", "Thumbs.db", "6.jfif", "7.bin"])
PATHS = st.lists(st.tuples(st.lists(NAME, min_size=0, max_size=4), LEAF), min_size=1, max_size=25)
LINKS = st.lists(
    st.tuples(st.lists(NAME, min_size=0, max_size=2), st.sampled_from(["ant", ".", "..", "/nowhere", "bee/1.png", "../ant"])), max_size=3
)


def visible(place: str, chain: tuple[str, ...]) -> tuple[int, int, int]:
    """-> images, other files, and links that lead nowhere or up; counted by another walk than the product's: os.walk, link by link"""
    images = others = ends = 0
    for at, folders, files in os.walk(place):
        for name in (*folders, *files):
            path = os.path.join(at, name)
            if os.path.islink(path) and not os.path.exists(path):
                ends += 1
            elif os.path.islink(path) and os.path.isdir(path):
                real, here = os.path.realpath(path), os.path.realpath(at)
                if f"{here}/".startswith(f"{real}/") or any(f"{one}/".startswith(f"{real}/") for one in chain):
                    ends += 1
                else:
                    inner = visible(path, (*chain, here))
                    images, others, ends = images + inner[0], others + inner[1], ends + inner[2]
            elif os.path.isfile(path):
                with open(path, "rb") as file:
                    shown = file.read(4) != b"word"
                images, others = images + shown, others + (not shown)
    return images, others, ends


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(paths=PATHS, links=LINKS)
def test_what_is_read_and_what_is_left_out_is_what_is_there(tmp_path, paths, links):
    root = tmp_path / f"tree{next(_numbers)}"
    root.mkdir()
    for folders, leaf in paths:
        place = root.joinpath(*folders)
        assume(not any(one.is_file() for one in (place, *place.parents) if one.exists()))
        place.mkdir(parents=True, exist_ok=True)
        if not (place / leaf).exists():
            grow(place, leaf) if not leaf.endswith(".bin") else (place / leaf).write_text("words")
    for number, (folders, target) in enumerate(links):
        place = root.joinpath(*folders)
        if place.is_dir():
            (place / f"link{number}").symlink_to(target)
    images, others, ends = visible(str(root), ())
    tree = survey(root)
    assert len(tree.images) + sum(map(len, tree.left.values())) == images + ends
    assert len(tree.others) == others
    try:
        source = load(replace(STREAMS["folder"], root=str(root), image_size=8, increment=1), decode=False)
    except InputError as error:
        assert "\n" not in str(error)
        return
    told = source.intake
    assert told.train + told.test + sum(kind.count for kind in told.left_out.values()) == images + ends
    assert sum(told.others.values()) == others
    assert (told.train, told.test) == (len(source.train.labels), len(source.test.labels))
