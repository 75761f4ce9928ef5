"""Data sets of the hub as people publish them. Oracle: each image says in its first pixel which class it is of."""

import io
import os
import time
from dataclasses import replace

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from data.config import STREAMS
from data.errors import InputError
from data.source import load
from data.stream import TaskStream

NAMES = ["ant", "bee", "cow"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CILBENCH_CACHE", str(tmp_path / "cache"))


def part(names: list[str | None], labels: list, feature, more: int = 0) -> datasets.Dataset:
    """names: the true class of each row, or None for a row without an image; labels: what the table says"""
    images = []
    for row, name in enumerate(names):
        pixels = np.full((6, 6, 3), row + more, np.uint8)
        pixels[0, 0] = 0 if name is None else NAMES.index(name)
        held = io.BytesIO()
        Image.fromarray(pixels).save(held, "PNG")
        images.append(None if name is None else {"bytes": held.getvalue(), "path": None})
    return datasets.Dataset.from_dict(
        {"image": images, "label": labels}, features=datasets.Features({"image": datasets.Image(), "label": feature})
    )


def saved(tmp_path, **splits) -> str:
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "pets"))
    return str(tmp_path / "pets")


def stream_of(root: str, **options):
    config = replace(STREAMS["hub"], root=root, increment=1, image_size=None, **options)
    source = load(config)
    for split in (source.train, source.test):
        first = split.images[torch.arange(len(split.labels))][:, 0, 0, 0]
        assert [NAMES[one] for one in first.tolist()] == [source.class_names[label].rpartition("~")[2] for label in split.labels]
    TaskStream(source, config)
    return source


ROWS = [*NAMES, *NAMES]
LABEL = datasets.ClassLabel(names=NAMES)


def test_labels_go_by_name_where_the_orders_differ(tmp_path):
    other = datasets.ClassLabel(names=["cow", "ant", "bee"])
    source = stream_of(saved(tmp_path, train=part(ROWS, ROWS, LABEL), test=part(NAMES, NAMES, other, 50)))
    assert source.class_names == ("ant", "bee", "cow")


@pytest.mark.parametrize("names", [["cow", "ant", "bee"], [*NAMES, "doe"], NAMES[1:]])
def test_parquet_files_that_number_the_classes_otherwise_are_refused_and_the_remedy_works(names, tmp_path):
    """The package `datasets` reads all files by the names of the first."""
    other = [name for name in NAMES if name in names]
    pets = {"train": part(ROWS, ROWS, LABEL), "test": part(other, other, datasets.ClassLabel(names=names), 50)}
    (tmp_path / "files").mkdir()
    for split, table in pets.items():
        table.to_parquet(str(tmp_path / "files" / f"{split}.parquet"))
    with pytest.raises(InputError, match="test.parquet numbers the classes otherwise than the data set does"):
        stream_of(str(tmp_path / "files"))
    again = {split: datasets.Dataset.from_parquet(str(tmp_path / "files" / f"{split}.parquet")) for split in pets}
    if len(other) == len(NAMES):
        stream_of(saved(tmp_path, **again))


def test_a_number_beyond_the_named_classes_is_a_sentence(tmp_path):
    table = part(NAMES, NAMES, LABEL).with_format("arrow")[:]
    table = table.set_column(1, "label", [[0, 1, 7]])
    named = datasets.Features({"image": datasets.Image(), "label": LABEL})
    with pytest.raises(InputError, match="holds 7 and names 3 classes"):
        stream_of(saved(tmp_path, train=datasets.Dataset(table, info=datasets.DatasetInfo(features=named))))


def test_a_test_split_without_labels_gives_way_to_validation(tmp_path):
    secret = part(NAMES, [-1] * 3, LABEL, 50)
    root = saved(tmp_path, train=part(ROWS, ROWS, LABEL), validation=part(NAMES, NAMES, LABEL, 80), test=secret)
    source = stream_of(root)
    assert len(source.test.labels) == 3 and any("'test' has no labels" in line for line in source.intake.lines())
    with pytest.raises(InputError, match="row 0 of the split 'test' has no image or no label.*choose a split that has"):
        stream_of(root, test="test")
    assert len(stream_of(root, test="validation").test.labels) == 3


@pytest.mark.parametrize("numbers", [[1, 2, 3], [10, 200, 3000], [0, 5, 6]])
def test_whole_numbers_need_not_be_0_1_2(numbers, tmp_path):
    kind = datasets.Value("int64")
    config = replace(STREAMS["hub"], increment=1, image_size=None, label_column="label")
    config.root = saved(tmp_path, train=part(ROWS, numbers * 2, kind), test=part(NAMES, numbers, kind, 50))
    source = load(config)
    rows = source.train.official.argsort()
    assert source.class_names == tuple(map(str, numbers)) and source.train.labels[rows].tolist() == [0, 1, 2, 0, 1, 2]
    assert [NAMES[one] for one in source.train.images[torch.from_numpy(rows)][:, 0, 0, 0].tolist()] == ROWS


def test_words_are_labels_too(tmp_path):
    kind = datasets.Value("string")
    stream_of(saved(tmp_path, train=part(ROWS, ROWS, kind), test=part(NAMES, NAMES, kind, 50)), label_column="label")


def test_rows_without_image_or_label_are_refused_or_left_out(tmp_path):
    train = part([*ROWS, None, "ant"], [*ROWS, "ant", None], LABEL)
    root = saved(tmp_path, train=train, test=part([*NAMES, "bee"], [0, 1, 2, -1], LABEL, 50))
    with pytest.raises(InputError, match="row 6 of the split 'train' has no image or no label, as have 1 others.*stream.corrupt=skip"):
        stream_of(root)
    source = stream_of(root, corrupt="skip")
    assert (len(source.train.labels), len(source.test.labels)) == (6, 3)
    assert sum(kind.count for kind in source.intake.left_out.values()) == 3


def test_a_class_that_is_only_named_is_left_out(tmp_path):
    wide = datasets.ClassLabel(names=["background", *NAMES])
    source = stream_of(saved(tmp_path, train=part(ROWS, ROWS, wide), test=part(NAMES, NAMES, wide, 50)))
    assert source.class_names == tuple(NAMES) and any("'background'" in line for line in source.intake.lines())


def test_splits_of_other_names_are_chosen_by_the_user(tmp_path):
    root = saved(tmp_path, small=part(ROWS, ROWS, LABEL), fold2=part(NAMES, NAMES, LABEL, 50))
    with pytest.raises(InputError, match="has the splits small, fold2: name the one to train on with stream.train="):
        stream_of(root)
    assert len(stream_of(root, train="small", test="fold2").test.labels) == 3
    with pytest.raises(InputError, match="did you mean 'small'"):
        stream_of(root, train="smal")


def test_one_split_is_cut_and_a_split_that_is_not_used_is_counted(tmp_path):
    source = stream_of(saved(tmp_path, train=part(ROWS, ROWS, LABEL)))
    assert (len(source.train.labels), len(source.test.labels)) == (3, 3)
    root = saved(tmp_path / "more", train=part(ROWS, ROWS, LABEL), test=part(NAMES, NAMES, LABEL, 50), extra=part(ROWS, ROWS, LABEL, 90))
    assert any("6 images in the split 'extra'" in line for line in stream_of(root).intake.lines())


def test_a_configuration_is_chosen(tmp_path):
    for name, rows in (("red", ROWS), ("blue", ROWS * 2)):
        for split, more in (("train", 0), ("test", 50)):
            (tmp_path / "pets" / name).mkdir(parents=True, exist_ok=True)
            part(rows, rows, LABEL, more).to_parquet(str(tmp_path / "pets" / name / f"{split}-00000.parquet"))
    files = [
        f"- config_name: {name}\n  data_files:\n  - split: train\n    path: {name}/train*\n  - split: test\n    path: {name}/test*\n"
        for name in ("red", "blue")
    ]
    (tmp_path / "pets" / "README.md").write_text("---\nconfigs:\n" + "".join(files) + "---\n")
    with pytest.raises(InputError, match="choose a configuration with stream.config="):
        stream_of(str(tmp_path / "pets"))
    assert len(stream_of(str(tmp_path / "pets"), config="blue").train.labels) == 12
    assert len(stream_of(str(tmp_path / "pets"), config="red").train.labels) == 6


def test_a_list_of_files_is_refused(tmp_path):
    with pytest.raises(InputError, match="stream.test_list names files"):
        stream_of(saved(tmp_path, train=part(ROWS, ROWS, LABEL)), test_list="x.txt")


@pytest.mark.parametrize("name", ["train-{:05}-of-00002.parquet", "train-{:05}-of-00002-{:016x}.parquet"])
@pytest.mark.parametrize("start", [0, 1])
def test_a_series_of_files_is_read_whole_or_not_at_all(start, name, tmp_path):
    """With a fingerprint in each name, too, as older data sets have them; what a download leaves hidden beside them is no part."""
    folder, hidden = tmp_path / "pets" / "data", tmp_path / "pets" / ".cache" / "huggingface"
    folder.mkdir(parents=True)
    hidden.mkdir(parents=True)
    (hidden / "train-00000-of-00009.parquet.metadata").touch()
    files = [folder / name.format(start + number, 255 + number) for number in range(2)]
    for number, file in enumerate(files):
        part(ROWS, [0, 1, 2] * 2, LABEL, 6 * number).to_parquet(file)
    part(ROWS, [0, 1, 2] * 2, LABEL, 12).to_parquet(folder / "test-00000-of-00001.parquet")
    assert len(stream_of(str(tmp_path / "pets")).train.labels) == 12
    files[1 - start].unlink()
    with pytest.raises(InputError, match="1 of 2 files of the data set are not there, .*data/train-00001-of-00002.parquet first: fetch"):
        stream_of(str(tmp_path / "pets"))


def test_what_the_package_passes_over_is_counted(tmp_path):
    """Oracle: the files of the folder, by hand"""
    for split in ("train", "test"):
        (tmp_path / "pets" / split).mkdir(parents=True)
        part(ROWS, [0, 1, 2] * 2, LABEL).to_parquet(tmp_path / "pets" / split / "rows.parquet")
    part(ROWS, [0, 1, 2] * 2, LABEL).to_parquet(tmp_path / "pets" / "more.parquet")
    assert [(kind.count, kind.first) for kind in stream_of(str(tmp_path / "pets")).intake.left_out.values()] == [(1, "more.parquet")]
    for split in ("train", "test"):
        for row, name in enumerate(ROWS):
            Image.fromarray(np.full((6, 6, 3), NAMES.index(name), np.uint8)).save(_made(tmp_path / "beasts" / split) / f"{row}.png")
        lines = ["file_name,label", *(f"{row}.png,{name}" for row, name in enumerate(ROWS) if row or split == "test")]
        (tmp_path / "beasts" / split / "metadata.csv").write_text("\n".join(lines))
    left = stream_of(str(tmp_path / "beasts"), label_column="label").intake.left_out
    assert {reason: kind.count for reason, kind in left.items()} == {"of the split 'train' without a row in its metadata": 1}


def _made(folder):
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_labels_that_were_corrected_are_read_though_the_file_says_no_other_time(tmp_path):
    """As rsync -t and archives leave it. The package `datasets` goes by the time of the last change of a file's content."""
    (tmp_path / "pets").mkdir()
    for wrong in (True, False):
        labels = [*ROWS[1:], ROWS[0]] if wrong else ROWS
        for split, said in (("train", labels), ("test", ROWS)):
            file = tmp_path / "pets" / f"{split}.parquet"
            part(ROWS, said, LABEL, 50 * (split == "test")).to_parquet(str(file))
            os.utime(file, (1_600_000_000, 1_600_000_000))
        if wrong:
            load(replace(STREAMS["hub"], root=str(tmp_path / "pets"), increment=1, image_size=None))
            time.sleep(2.1)  # no file is fresh any more
            load(replace(STREAMS["hub"], root=str(tmp_path / "pets"), increment=1, image_size=None))
    time.sleep(2.1)
    stream_of(str(tmp_path / "pets"))


def test_a_data_set_in_the_folder_one_is_in(tmp_path, monkeypatch):
    (tmp_path / "pets").mkdir()
    for split in ("train", "test"):
        part(ROWS, ROWS, LABEL, 50 * (split == "test")).to_parquet(str(tmp_path / "pets" / f"{split}.parquet"))
    monkeypatch.chdir(tmp_path / "pets")
    assert stream_of(".").name.startswith("hub_pets_")
