"""Lists of images in any usual encoding, with paths from any machine. Oracle: brute force over all files, component by component."""

import codecs
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.config import STREAMS
from data.errors import InputError
from data.images.lists import listed_mask, listed_rows, read_lines
from data.source import load
from data.stream import TaskStream
from tests.data import trees

FILES = ["cat/im01.png", "cat/im02.png", "dog/im01.png", "dog/deep/im03.png", "caf\u00e9/im04.png"]


@pytest.mark.parametrize(
    "write",
    [
        lambda text: text.encode(),
        lambda text: codecs.BOM_UTF8 + text.encode(),
        lambda text: text.encode("utf-16"),
        lambda text: text.encode("utf-16-le"),
        lambda text: text.encode("utf-16-be"),
        lambda text: text.encode("utf-32"),
        lambda text: text.encode("cp1252"),
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: text.replace("\n", "\r").encode(),
        lambda text: text.replace("\u00e9", "e\u0301").encode(),
    ],
    ids=["utf-8", "utf-8 with a mark", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252", "Windows", "old Mac", "decomposed"],
)
def test_every_usual_encoding_is_read(write, tmp_path):
    (tmp_path / "list.txt").write_bytes(write("cat/im01.png\n\ncaf\u00e9/im04.png\n"))
    assert listed_mask(tmp_path / "list.txt", FILES).tolist() == [True, False, False, False, True]


@pytest.mark.parametrize(
    ("line", "row"),
    [
        ("cat/im01.png", 0),
        ("./cat/im01.png", 0),
        ("cat\\im01.png", 0),
        (".\\dog\\deep\\im03.png", 3),
        ("/home/somebody/pets/cat/im01.png", 0),
        ("C:\\pets\\dog\\im01.png", 2),
        ("pets/cat/im02.png", 1),
        ("im02.png", 1),
        ("deep/im03.png", 3),
        ("im03.png", 3),
        ("cat//im01.png", 0),
        ('"cat/im01.png"', 0),
        ("cat/im01.png 7", 0),
        ("cat/im01.png,7", 0),
        ("cat/im01.png\t0", 0),
    ],
)
def test_a_path_is_matched_by_all_that_it_says(line, row):
    assert listed_rows(Path("list.txt"), [line], FILES, "image") == [row]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("im01.png", "'im01.png', which is cat/im01.png and dog/im01.png alike: write paths as <class>/<file>"),
        ("cow/im01.png", "'cow/im01.png', which is no image of the data set"),
        ("cat/im03.png", "no image"),
        ("dog/im03.png", "no image"),
        ("/elsewhere/im01.png", "no image"),
    ],
)
def test_a_path_that_is_none_or_several_is_refused(line, sentence):
    with pytest.raises(InputError, match=sentence):
        listed_rows(Path("list.txt"), [line], FILES, "image")


def test_a_folder_that_the_name_repeats_says_nothing_where_images_lie_flat():
    """The lists of mini-ImageNet's few-shot protocol name class folders that its release does not have."""
    flat = ["images/n0153282900000005.jpg", "images/n0210000000000001.jpg"]
    assert listed_rows(Path("session_1.txt"), ["MINI-ImageNet/train/n02100000/n0210000000000001.jpg"], flat, "image") == [1]
    for line in ("MINI-ImageNet/train/n01532829/n0210000000000001.jpg", "train/n01532829/n0153282900000009.jpg"):
        with pytest.raises(InputError, match="no image"):
            listed_rows(Path("session_1.txt"), [line], flat, "image")


PART = st.sampled_from(["a", "b", "c"])
PATH = st.lists(PART, min_size=2, max_size=4).map("/".join)


@settings(max_examples=300, deadline=None)
@given(st.lists(PATH, min_size=1, max_size=8, unique=True), st.lists(PART, min_size=1, max_size=6).map("/".join))
def test_any_path_against_any_files(files, line):
    parts = line.split("/")
    whole = [file for file in files if file.split("/") == parts]
    ends = whole or [file for file in files if file.split("/")[-len(parts) :] == parts]
    around = [file for file in files if parts[-len(file.split("/")) :] == file.split("/")]
    expected = ends if ends else sorted(around, key=len)[-1:]
    if len(expected) == 1:
        assert files[listed_rows(Path("x"), [line], files, "image")[0]] == expected[0]
    else:
        with pytest.raises(InputError):
            listed_rows(Path("x"), [line], files, "image")


def test_the_split_of_a_folder_is_the_users_list(tmp_path):
    for label, name in enumerate(("ant", "bee")):
        for row in range(4):
            trees.save(tmp_path / "pets" / name / f"im{row}.png", label * 10 + row)
    (tmp_path / "test.txt").write_bytes(codecs.BOM_UTF8 + b".\\ant\\im0.png\r\n.\\bee\\im3.png\r\n")
    config = replace(STREAMS["folder"], root=str(tmp_path / "pets"), image_size=8, increment=1, test_list=str(tmp_path / "test.txt"))
    source = load(config)
    assert source.test.images.names == ["ant/im0.png", "bee/im3.png"] and "-list" in TaskStream(source, config).key
    (tmp_path / "test.txt").write_text("im0.png\n")
    with pytest.raises(InputError, match="ant/im0.png and bee/im0.png alike"):
        load(config)


def test_the_few_rows_are_those_of_the_list(tmp_path):
    """The same file names under each class: the last component alone would take one class's for another's."""
    for label, name in enumerate(("ant", "bee", "cat")):
        for row in range(5):
            trees.save(tmp_path / "pets" / name / f"im{row}.png", label * 10 + row)
    (tmp_path / "test.txt").write_text("\n".join(f"{name}/im4.png" for name in ("ant", "bee", "cat")))
    (tmp_path / "few.txt").write_text("bee/im1.png\n./bee/im3.png\ncat/im0.png\n/data/pets/cat/im1.png\n")
    lists = {"test_list": str(tmp_path / "test.txt"), "shot_list": str(tmp_path / "few.txt")}
    config = replace(STREAMS["folder"], root=str(tmp_path / "pets"), image_size=8, increment=1, shots=2, **lists)
    stream = TaskStream(load(config), config)
    kept = [sorted(stream[task].train.store.names[row] for row in stream[task].train.index.tolist()) for task in (1, 2)]
    assert kept == [["bee/im1.png", "bee/im3.png"], ["cat/im0.png", "cat/im1.png"]]
    (tmp_path / "few.txt").write_text("im1.png\n")
    with pytest.raises(InputError, match="few.txt names 'im1.png', which is .* alike"):
        TaskStream(load(config), config)


def test_a_list_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="none.txt cannot be read"):
        read_lines(tmp_path / "none.txt")
