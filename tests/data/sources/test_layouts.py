"""Folders as people have them: what is read of each, or the sentence that asks, whose remedy is followed and leads to a run.

Oracle: the lines below, written by hand. Every image shows its class, so that a wrong label cannot pass.
"""

import io
import itertools
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench.config import resolve
from bench.engine import run
from data.config import STREAMS
from data.errors import InputError
from data.source import load
from data.stream import TaskStream
from tests.data.sources.asked_table import ASKED as SOME
from tests.data.sources.layout_table import READ
from tests.data.sources.more_asked_table import MORE_ASKED

ASKED = SOME | MORE_ASKED

CLASSES = ["ant", "bee", "cat", "dog"]
_numbers = itertools.count()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("CILBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))


def expand(pattern: str) -> list[str]:
    """'{a,b}/{1..2}.png' -> the four paths"""
    found = re.search(r"\{([^{}]*)\}", pattern)
    if found is None:
        return [pattern]
    first, dots, last = found[1].partition("..")
    choices = [str(one) for one in range(int(first), int(last) + 1)] if dots else found[1].split(",")
    return [path for one in choices for path in expand(pattern[: found.start()] + one + pattern[found.end() :])]


def image(shown: int, kind: str = "PNG") -> bytes:
    """-> an image that shows a number, and differs from every other"""
    number = next(_numbers)
    pixels = np.full((8, 8, 3), shown * 60, np.uint8)
    pixels[-2:, -2:] = (number % 251, number // 251 % 251, number // 63001)
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, kind)
    return held.getvalue()


KINDS = {
    ".jpg": "JPEG",
    ".jfif": "JPEG",
    ".jpe": "JPEG",
    ".jp2": "JPEG2000",
    ".webp": "WEBP",
    ".avif": "AVIF",
    ".bmp": "BMP",
    ".gif": "GIF",
}


def grow(root: Path, patterns: str) -> None:
    """Make what the patterns say: 'a/b.png' an image, 'a.txt' words, 'a/' an empty folder, 'a -> b' a link to b from where a lies."""
    for path in (path for pattern in patterns.split(";") for path in expand(pattern.strip())):
        path, _, target = path.partition(" -> ")
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if target:
            place.symlink_to(target)
        elif path.endswith("/"):
            place.mkdir(parents=True, exist_ok=True)
        elif place.suffix in (".txt", ".csv", ".xml", ".db", ".ini", ".zip", ".svg", ".heic", ".HEIC", ".cr2") or place.name == ".DS_Store":
            place.write_text("words")
        else:
            shown = [at for at, name in enumerate(CLASSES) if any(name in part.casefold() for part in path.split("/"))]
            place.write_bytes(image(shown[-1] if shown else 0, KINDS.get(place.suffix.lower(), "PNG")))


def stream(root: Path, **options):
    """-> source and stream, after its images were compared with its labels"""
    config = replace(STREAMS["folder"], root=str(root), image_size=8, increment=1, **options)
    source = load(config)
    for split in (source.train, source.test):
        shown = split.images[torch.arange(len(split.labels))][:, 0, 1, 1].float().div(60).round().long()
        for label, number in zip(split.labels.tolist(), shown.tolist(), strict=True):
            name = source.class_names[label].casefold()
            assert not any(one in name for one in CLASSES) or CLASSES[number] in name
    return source, TaskStream(source, config)


def agrees(found, classes: str, train: int, test: int) -> None:
    source, made = found
    assert [name.replace(" ", "_") for name in source.class_names] == classes.split()
    assert (len(source.train.labels), len(source.test.labels)) == (train, test)
    assert (source.intake.train, source.intake.test, source.intake.classes) == (train, test, len(classes.split()))
    assert len(made.train_rows) == train


def leads_to_a_run(root: Path, options: dict, made: TaskStream, results: Path, accelerator) -> None:
    """In one task, which is the quickest: how a stream is cut into tasks is tested elsewhere."""
    given = {"root": str(root), "image_size": 8, "increment": len(made.arrivals), **options}
    overrides = [f"stream.{name}={json.dumps(value)}" for name, value in given.items()]
    quick = ["method=finetune", "method.epochs=1", "progress=false", f"results={results}"]
    record, _ = run(resolve(["stream=folder", *quick, *overrides]), accelerator)
    assert tuple(record["stream"]["class_names"]) == made.class_names and record["counts"]["total"] == [len(made.scored_rows)]


def test_the_table_is_long_enough():
    assert len(READ) + len(ASKED) >= 60


@pytest.mark.parametrize("case", READ)
def test_a_folder_is_read(case, tmp_path, accelerator):
    patterns, options, classes, train, test, said = READ[case]
    grow(tmp_path / "pets", patterns)
    found = stream(tmp_path / "pets", **options)
    agrees(found, classes, train, test)
    lines = list(found[0].intake.lines())
    for words in said:
        assert any(words in line for line in lines), lines
    there = sum(len(files) for _, _, files in os.walk(tmp_path / "pets"))
    told = found[0].intake
    assert told.train + told.test + sum(kind.count for kind in told.left_out.values()) + sum(told.others.values()) >= there
    if options or "splits" in case or "class folders" in case:  # the others differ from these in their paths alone; runs take their time
        leads_to_a_run(tmp_path / "pets", options, found[1], tmp_path / "results", accelerator)


@pytest.mark.parametrize("case", ASKED)
def test_a_folder_is_asked_about_and_the_answer_leads_to_a_run(case, tmp_path, accelerator):
    patterns, options, sentence, remedy, *expected = ASKED[case]
    root = tmp_path / "pets"
    grow(root, patterns)
    options = dict(options)
    size = options.pop("image_size", 8)
    with pytest.raises(InputError, match=sentence) as caught:
        load(replace(STREAMS["folder"], root=str(root), increment=1, image_size=size, **options))
    assert "\n" not in str(caught.value)
    if isinstance(remedy, tuple):
        more, fewer, changes = remedy
        if more:
            grow(root, more)
        for name in fewer:
            place = root / name
            shutil.rmtree(place) if place.is_dir() and not place.is_symlink() else place.unlink()
        if case in ("no folders", "splits without classes", "detection"):
            for place in (*root.glob("*.png"), *root.glob("*/*.png"), *root.glob("*/images/*.png")):
                if place.parent.name not in CLASSES:
                    place.unlink()
    else:
        changes = {key: value for key, value in remedy.items() if key != "image_size"}
    options |= changes
    root = root / options.pop("root", "")
    found = stream(root, **options)
    agrees(found, *expected)
    leads_to_a_run(root, options, found[1], tmp_path / "results", accelerator)


LISTS = {
    "empty": ("\n \n", r"l\.txt is empty: write one name a line"),
    "one class": ("ant/1.png", "names none of the 5 images of class 'bee': name some"),
    "all of a class": (
        "\n".join(f"ant/{n}.png" for n in range(1, 6)) + "\nbee/1.png",
        "names all of the 5 images of class 'ant': name some",
    ),
    "a heading": ("path,label\nant/1.png,0\nbee/1.png,1", "names 'path,label', which .* write paths as <class>/<file>, and nothing else"),
    "words as labels": ("ant/1.png,ant\nbee/1.png,bee", "names 'ant/1.png,ant', which .* and nothing else"),
    "JSON": ('["ant/1.png", "bee/1.png"]', "and nothing else"),
    "another case": ("Ant/1.png\nBee/1.png", "names 'Ant/1.png', which is no image"),
}


@pytest.mark.parametrize("case", LISTS)
def test_a_list_that_splits_nothing_is_a_sentence_whose_remedy_works(case, tmp_path):
    grow(tmp_path / "pets", "{ant,bee}/{1..5}.png")
    lines = tmp_path / "l.txt"
    lines.write_text(LISTS[case][0])
    with pytest.raises(InputError, match=LISTS[case][1]):
        stream(tmp_path / "pets", test_list=str(lines))
    lines.write_text("ant/1.png\nbee/1.png\nbee/1.png")  # a line twice says nothing else
    agrees(stream(tmp_path / "pets", test_list=str(lines)), "ant bee", 8, 2)


@pytest.mark.parametrize("what", ["test_list", "shot_list"])
def test_an_empty_list_or_a_folder_in_its_place(what, tmp_path):
    grow(tmp_path / "pets", "{ant,bee}/{1..5}.png")
    shots = {"shots": 1} if what == "shot_list" else {}
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(InputError, match="empty.txt is empty: write one name a line"):
        stream(tmp_path / "pets", **{what: str(tmp_path / "empty.txt")}, **shots)
    with pytest.raises(InputError, match="name a (text )?file"):
        stream(tmp_path / "pets", **{what: str(tmp_path)}, **shots)


def test_a_list_takes_the_place_of_the_folders_splits_and_the_account_says_so(tmp_path):
    grow(tmp_path / "pets", "{train,test}/{ant,bee}/{1..2}.png")
    (tmp_path / "l.txt").write_text("train/ant/1.png\ntrain/bee/1.png")
    found = stream(tmp_path / "pets", test_list=str(tmp_path / "l.txt"))
    agrees(found, "ant bee", 6, 2)
    assert found[0].intake.notes == ("the split is that of stream.test_list, not that of the folders",)


@pytest.mark.parametrize("name", ["folder", "cifar100", "tiny_imagenet", "imagenet100", "cub200", "caltech101", "domainnet", "hub"])
def test_the_root_is_an_archive(name, tmp_path):
    (tmp_path / "data.tar.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(InputError, match=r"data.tar.gz is a file.*: name the folder"):
        load(replace(STREAMS[name], root=str(tmp_path / "data.tar.gz")))


def test_too_few_images_for_the_shots_or_for_a_validation_share(tmp_path):
    grow(tmp_path / "pets", "{train,test}/{ant,bee}/1.png")
    with pytest.raises(InputError, match="1 rows of class 1 .* stream.shots=3: lower stream.shots, or add images"):
        stream(tmp_path / "pets", shots=3)
    agrees(
        (load(replace(STREAMS["folder"], root=str(tmp_path / "pets"), image_size=8)), stream(tmp_path / "pets", shots=1)[1]),
        "ant bee",
        2,
        2,
    )
    with pytest.raises(InputError, match="without training rows: .* has one training image, leave it out or add images"):
        stream(tmp_path / "pets", validation=0.1)
    grow(tmp_path / "pets", "train/{ant,bee}/2.png")
    stream(tmp_path / "pets", validation=0.1)


def test_a_size_that_fills_the_memory_is_refused():
    with pytest.raises(InputError, match="stream.image_size=1000000 must be at least 1 and at most 4096"):
        resolve(["stream=digits", "method=finetune", "stream.image_size=1000000"])


def test_the_root_is_one_of_the_splits(tmp_path):
    grow(tmp_path / "pets", "{train,test}/{ant,bee}/{1..5}.png")
    with pytest.raises(InputError, match=f"is one split beside test/: set stream.root={tmp_path / 'pets'}, or cut .* stream.train=."):
        stream(tmp_path / "pets" / "train")
    agrees(stream(tmp_path / "pets" / "train", train="."), "ant bee", 8, 2)
    agrees(stream(tmp_path / "pets"), "ant bee", 10, 10)


def test_the_root_is_one_of_the_classes(tmp_path):
    grow(tmp_path / "pets", "{ant,bee}/{1..5}.png")
    with pytest.raises(InputError, match=f"set stream.root={tmp_path / 'pets'} if ant is one of the classes"):
        stream(tmp_path / "pets" / "ant")


def test_a_name_that_is_not_utf_8_is_a_sentence(tmp_path):
    grow(tmp_path / "pets", "{ant,bee}/{1..5}.png")
    odd = os.fsencode(tmp_path / "pets" / "ant") + b"/caf\xe9.png"
    try:
        Path(os.fsdecode(odd)).write_bytes(image(0))
    except OSError:
        pytest.skip("this disk takes no such name")
    with pytest.raises(InputError, match=r"'ant/caf\\xe9.png' is not written in UTF-8: rename it"):
        stream(tmp_path / "pets")
    os.rename(odd, os.fsencode(tmp_path / "pets" / "ant" / "café.png"))
    agrees(stream(tmp_path / "pets"), "ant bee", 9, 2)


def test_what_cannot_be_decoded_moves_to_what_is_left_out(tmp_path):
    grow(tmp_path / "pets", "{ant,bee}/{1..5}.png")
    (tmp_path / "pets" / "ant" / "2.png").write_bytes(b"torn")
    source, _ = stream(tmp_path / "pets", corrupt="skip")
    assert source.intake.train + source.intake.test == 9 and sum(source.intake.endings.values()) == 9
    assert any("1 images that cannot be decoded" in line and "ant/2.png" in line for line in source.intake.lines())
