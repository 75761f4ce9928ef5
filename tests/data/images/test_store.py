"""Image files become pixels: every mode, rotation, the cache, the folder that nobody prepared, and what is broken."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from data.config import STREAMS, FolderConfig
from data.errors import InputError
from data.images import store as stores
from data.images.decode import decode
from data.images.store import FileStore, decoded
from data.source import load
from data.stream import Rows, TaskStream
from tests.data import trees


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CILBENCH_CACHE", str(tmp_path / "cache"))


def files(root, count: int = 6, size: int | None = None, workers: int = 2) -> FileStore:
    for row in range(count):
        trees.save(root / f"{row}.png", row)
    return FileStore(root, [f"{row}.png" for row in range(count)], size, workers)


def test_pixels_are_those_of_the_file(tmp_path):
    store = files(tmp_path)
    batch = store[torch.tensor([4, 0, 4])]
    assert batch.shape == (3, 3, 16, 20) and batch.dtype == torch.uint8
    assert np.array_equal(batch[0].permute(1, 2, 0).numpy(), np.asarray(trees.picture(4)))
    assert torch.equal(batch[0], batch[2]) and not torch.equal(batch[0], batch[1])


def test_the_cache_holds_the_same_pixels_and_the_second_start_decodes_nothing(tmp_path, monkeypatch):
    store = files(tmp_path, size=8)
    first = decoded(store)
    assert torch.equal(first[torch.arange(6)], store[torch.arange(6)])
    monkeypatch.setattr(stores.decode, "decode", lambda *_: pytest.fail("decoded again"))
    again = decoded(FileStore(tmp_path, store.names, 8))
    assert torch.equal(again[torch.arange(6)], first[torch.arange(6)]) and again.path == first.path


def test_a_changed_file_is_decoded_again(tmp_path):
    before = files(tmp_path, size=8).digest()
    trees.save(tmp_path / "3.png", 99)
    store = FileStore(tmp_path, [f"{row}.png" for row in range(6)], 8, 2)
    assert store.digest() != before
    assert decoded(store)[torch.tensor([3])].equal(store[torch.tensor([3])])


def test_files_of_one_name_size_and_time_are_told_apart(tmp_path):
    """The decode cache of one folder never serves another: bitmaps of one size, as `cp -p` and an unpacked archive leave them."""
    stores = []
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        trees.picture(len(stores)).save(tmp_path / place / "0.bmp")
        os.utime(tmp_path / place / "0.bmp", ns=(10**18, 10**18))
        stores.append(FileStore(tmp_path / place, ["0.bmp"], 8, 1))
    first, second = (decoded(store)[torch.tensor([0])] for store in stores)
    assert not first.equal(second) and second.equal(stores[1][torch.tensor([0])])


def test_worker_processes_read_the_same_batches(tmp_path):
    store = files(tmp_path)
    for held in (store, decoded(store)):
        rows = Rows(held, torch.arange(6), torch.zeros(6, dtype=torch.int64))
        loader = torch.utils.data.DataLoader(rows, batch_size=None, sampler=[[0, 5], [2]], num_workers=1)
        assert [batch.inputs.equal(store[batch.index]) for batch in loader] == [True, True]


def test_an_image_is_turned_squared_and_made_rgb(tmp_path):
    picture = Image.new("RGB", (60, 20), "red")
    picture.paste("blue", (0, 0, 30, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the left side is the top
    picture.save(tmp_path / "turned.png", exif=exif)
    assert decode(tmp_path / "turned.png", None).shape == (60, 20, 3)
    square = decode(tmp_path / "turned.png", 10)
    assert square.shape == (10, 10, 3) and square[0].mean(0).argmax() == 2 and square[-1].mean(0).argmax() == 0
    Image.new("CMYK", (30, 30), (0, 255, 255, 0)).save(tmp_path / "ink.jpg")
    assert decode(tmp_path / "ink.jpg", 8).reshape(-1, 3).mean(0).argmax() == 0
    Image.fromarray(np.full((5, 5), 0x8001, np.uint16)).save(tmp_path / "deep.png")
    assert (decode(tmp_path / "deep.png", None) == 0x80).all()


def test_a_draft_decoded_jpeg_is_close_to_the_full_one(tmp_path):
    smooth = trees.picture(0, 8, 8).resize((512, 400), Image.Resampling.BICUBIC)
    smooth.save(tmp_path / "large.jpg", quality=95)
    drafted = decode(tmp_path / "large.jpg", 64).astype(float)
    full = np.asarray(Image.open(tmp_path / "large.jpg").resize((64, 64), Image.Resampling.BICUBIC, box=(56, 0, 456, 400))).astype(float)
    assert np.abs(drafted - full).mean() < 2


def test_images_of_several_sizes_need_a_size(tmp_path):
    for row, width in enumerate((10, 11)):
        trees.save(tmp_path / f"{row}.png", row, width)
    store = FileStore(tmp_path, ["0.png", "1.png"])
    for read in (lambda: store[torch.arange(2)], lambda: decoded(store)):
        with pytest.raises(InputError, match="1.png has 11x16 pixels.*stream.image_size"):
            read()


def test_the_folder_that_nobody_prepared(tmp_path, capsys):
    """The corrupt file is named; the run stops, or leaves it out and says so in the key."""
    root = tmp_path / "My Photos"
    corrupt = trees.messy(root)
    config = replace(STREAMS["folder"], root=str(root), image_size=32, increment=1)
    with pytest.raises(InputError, match=f"{corrupt.name} is no readable image.*stream.corrupt=skip"):
        load(config)
    skipping = replace(config, corrupt="skip")
    stream = TaskStream(load(skipping), skipping)
    assert str(corrupt) in capsys.readouterr().err
    assert "skip1" in stream.key and stream.key.startswith("folder_my_photos_")
    assert len(stream.train_rows) + len(stream.scored_rows) == 20 and stream.class_names == ("bears", "cats")
    for rows in (stream.train_rows, stream.scored_rows):
        assert rows[torch.arange(len(rows))].inputs.shape[1:] == (3, 32, 32)
        assert not any("torn" in name or "notes" in name or "hidden" in name for name in rows.store.names)
    streamed = replace(skipping, cache_gib=0.0)
    held = TaskStream(load(streamed), streamed)
    assert isinstance(held.train_rows.store, FileStore) and held.sha256 == stream.sha256
    assert held.train_rows[[0, 5]].inputs.equal(stream.train_rows[[0, 5]].inputs)


def test_two_folders_have_two_keys(tmp_path):
    keys = set()
    for place, more in (("a", 0), ("b", 1)):
        trees.folder(tmp_path / place / "pets")
        for row in range(more):
            trees.save(tmp_path / place / "pets" / "cat" / f"more{row}.png", 70 + row)
        config = replace(STREAMS["folder"], root=str(tmp_path / place / "pets"), image_size=8)
        keys.add(TaskStream(load(config), config).key)
    assert len(keys) == 2


def test_a_folder_with_its_own_split(tmp_path):
    for split in ("train", "test"):
        for label, name in enumerate(("ant", "bee")):
            trees.save(tmp_path / split / name / "x.png", label + 10 * (split == "test"))
    config = FolderConfig("folder", root=str(tmp_path), increment=1)
    source = load(config)
    assert (len(source.train.labels), len(source.test.labels), source.class_names) == (2, 2, ("ant", "bee"))
    trees.save(tmp_path / "test" / "cow" / "x.png", 30)
    with pytest.raises(InputError, match="'cow'.*test images but no training images"):
        load(config)
    trees.save(tmp_path / "train" / "cow" / "x.png", 30)
    load(config)  # cow's two images are one: warned about, not refused


def test_an_empty_class_folder_is_named(tmp_path):
    trees.folder(tmp_path)
    (tmp_path / "zebra").mkdir()
    with pytest.raises(InputError, match="folder 'zebra'.*holds no images"):
        load(replace(STREAMS["folder"], root=str(tmp_path)))


def test_an_unknown_way_to_treat_corrupt_files(tmp_path):
    trees.folder(tmp_path)
    with pytest.raises(InputError, match="unknown stream.corrupt 'ignore'"):
        load(replace(STREAMS["folder"], root=str(tmp_path), corrupt="ignore"))
