"""A number's data: streams of other content have another identity, streams of the same content one from any packaging.

Oracle: the same pixels, packed by other libraries (pickle, Pillow, datasets), in another order and under other names.
"""

import io
import os
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from bench.board.collect import collect
from data.config import STREAMS, StreamConfig
from data.errors import InputError
from data.source import Source, Split, canonical, fingerprint, load, told_apart
from data.sources.published import PUBLISHED
from data.stream import TaskStream, identity
from tests.bench.made import write_record
from tests.data import trees


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CILBENCH_CACHE", str(tmp_path / "cache"))


def repacked(root, folder: str, label: bytes, batches: list[str], test: str, names: list[str], seed: int = 1):
    """Pickles of CIFAR -> root/png, class folders under other names in another order; root/hub, parquet files"""
    import datasets

    features = datasets.Features({"img": datasets.Image(), label.decode().rstrip("s"): datasets.ClassLabel(names=names)})
    for split, files in (("train", batches), ("test", [test])):
        records = [pickle.loads((root / folder / file).read_bytes(), encoding="bytes") for file in files]
        pixels = np.concatenate([one[b"data"] for one in records]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        labels = np.concatenate([one[label] for one in records])
        order, rows = np.random.default_rng(seed).permutation(len(labels)), []
        for number, row in enumerate(order.tolist()):
            held = io.BytesIO()
            Image.fromarray(pixels[row]).save(held, "PNG", compress_level=number % 10)
            place = root / "png" / split / names[labels[row]] / f"{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(held.getvalue())
            rows.append(held.getvalue())
        columns = {"img": [{"bytes": one, "path": None} for one in rows], label.decode().rstrip("s"): labels[order].tolist()}
        (root / "hub").mkdir(exist_ok=True)
        datasets.Dataset.from_dict(columns, features=features).to_parquet(str(root / "hub" / f"{split}.parquet"))


@pytest.mark.parametrize(
    "name, layout",
    [
        ("cifar10", ("cifar-10-batches-py", b"labels", [f"data_batch_{number}" for number in range(1, 6)], "test_batch")),
        ("cifar100", ("cifar-100-python", b"fine_labels", ["train"], "test")),
    ],
)
def test_one_stream_from_any_packaging(name, layout, tmp_path):
    classes = int(name.removeprefix("cifar"))
    trees.cifar(tmp_path, classes)
    repacked(tmp_path, *layout, [f"kind_{label:03d}" for label in range(classes)])
    base = classes // 2
    config = replace(STREAMS[name], base=base, increment=classes - base, shots=3, validation=0.3)
    found = []
    for root in (tmp_path, tmp_path / layout[0], tmp_path / "png", tmp_path / "hub"):
        stream = TaskStream(load(replace(config, root=str(root))), config)
        assert identity(replace(config, root=str(root))) == (stream.key, stream.sha256)
        rows = [rows[torch.arange(len(rows))] for rows in (stream.train_rows, stream.scored_rows, stream.seen(1))]
        found.append((stream.key, stream.sha256, stream.class_names, rows))
    for one in found[1:]:
        assert one[:3] == found[0][:3]
        assert all(torch.equal(a, b) for batch, first in zip(one[3], found[0][3], strict=True) for a, b in zip(batch, first, strict=True))
    assert found[0][0].startswith(f"{name}-b{base}") and "-part" in found[0][0]  # of the toy: it is not the published set


def flowers(root, seed: int = 0, classes: int = 2) -> StreamConfig:
    for label in range(classes):
        for row in range(5):
            trees.save(root / f"kind{label}" / f"{row}.png", 100 * seed + 10 * label + row, 8, 8)
    return replace(STREAMS["folder"], root=str(root), increment=1, image_size=8)


def test_folders_of_one_name_and_other_pictures_are_two_streams(tmp_path):
    first, second = (identity(flowers(tmp_path / version / "flowers", seed)) for seed, version in enumerate(("v1", "v2")))
    assert first[0] != second[0] and first[1] != second[1]
    copy = flowers(tmp_path / "elsewhere" / "flowers", 0)
    for row in range(5):  # other names, another order
        os.rename(
            tmp_path / "elsewhere" / "flowers" / "kind0" / f"{row}.png", tmp_path / "elsewhere" / "flowers" / "kind0" / f"z{9 - row}.png"
        )
    assert identity(copy) == first
    assert first[0] == f"folder_flowers_{fingerprint(load(copy))[:8]}-b0-inc1-natural-v2-8px"


def test_a_hub_data_set_with_other_pictures_is_another_stream(tmp_path):
    import datasets

    keys = set()
    for version in ("v1", "v2"):
        (tmp_path / version).mkdir()
        trees.hub(tmp_path / version)
        if version == "v2":
            parts = datasets.load_from_disk(str(tmp_path / version / "pets"))
            rows = parts["train"].cast_column("img", datasets.Image(decode=False))[:]
            held = io.BytesIO()
            trees.picture(900).save(held, "PNG")
            rows["img"][0]["bytes"] = held.getvalue()
            parts["train"] = datasets.Dataset.from_dict(rows, features=parts["train"].features)
            parts.save_to_disk(str(tmp_path / version / "new"))
        root = tmp_path / version / ("pets" if version == "v1" else "new")
        keys.add(identity(replace(STREAMS["hub"], root=str(root), image_size=16))[0].replace("_new_", "_pets_"))
    assert len(keys) == 2


def test_the_lines_of_lists_are_in_the_identity_and_their_place_is_not(tmp_path):
    config = flowers(tmp_path / "flowers")
    seen = []
    for name, rows in (("a", (0, 1)), ("b", (0, 2)), ("c", (1, 0))):
        (tmp_path / f"{name}.txt").write_text("\n".join(f"kind{label}/{row}.png" for label in range(2) for row in rows))
        seen.append(identity(replace(config, test_list=str(tmp_path / f"{name}.txt"))))
    assert seen[0] != seen[1] and seen[0] == seen[2] and "-list" in seen[0][0] and seen[0][0] != seen[1][0]


def test_few_rows_by_number_need_the_published_order(tmp_path):
    trees.cifar(tmp_path, 100)
    (tmp_path / "few.txt").write_text("0\n1\n")
    config = replace(STREAMS["cifar100-fscil"], root=str(tmp_path), shot_list=str(tmp_path / "few.txt"))
    with pytest.raises(InputError, match="no published order of rows"):
        TaskStream(load(config), config)


def test_row_numbers_mean_the_published_order_wherever_the_rows_stand():
    labels = np.array([1, 0, 1, 0, 1, 0])
    images = torch.arange(6, dtype=torch.uint8).flip(0)[:, None, None, None].repeat(1, 3, 2, 2)
    split = Split(images, labels, official=np.arange(6))
    source = canonical(Source("toy", 1, split, split, ("a", "b")))
    assert source.train.labels.tolist() == [0, 0, 0, 1, 1, 1] and sorted(source.train.official.tolist()) == list(range(6))
    assert torch.equal(source.train.images, images[source.train.official])


@pytest.mark.parametrize(
    "options, said",
    [({"test_list": "/no/such/file"}, "stream.test_list"), ({"shot_list": "/no"}, "shot_list"), ({"shot_seed": 3}, "shot_seed")],
)
def test_an_option_without_effect_is_refused(options, said):
    with pytest.raises(InputError, match=f"{said}.* has no effect"):
        load(replace(STREAMS["digits"], **options))


def test_an_image_size_acts_on_tables_of_pixels():
    plain, large = (TaskStream(load(config), config) for config in (StreamConfig(), StreamConfig(image_size=20)))
    one, two = plain.train_rows[[0, 700]].inputs, large.train_rows[[0, 700]].inputs
    assert one.shape[2:] == (8, 8) and two.shape[2:] == (20, 20) and plain.sha256 != large.sha256 and "20px" in large.key
    oracle = [Image.fromarray(image.permute(1, 2, 0).numpy()).resize((20, 20), Image.Resampling.BICUBIC) for image in one]
    assert np.array_equal(np.stack([np.asarray(image) for image in oracle]).transpose(0, 3, 1, 2), two.numpy())


def test_half_a_data_set_says_so_and_stands_beside_the_whole(tmp_path, capsys):
    trees.tiny_imagenet(tmp_path)
    config = replace(STREAMS["tiny_imagenet"], root=str(tmp_path), increment=2)
    source = load(config)
    said = capsys.readouterr().err
    assert source.variant == f"part{fingerprint(source)[:8]}" and f"its key says {source.variant}" in said
    assert "holds 4 classes, 12 training images, 4 test images where the published set has 200 classes, 100,000 training images" in said
    half = identity(config)
    whole = half[0].replace(f"-{source.variant}", "")
    for key, seed in ((half[0], 0), (half[0], 1), (whole, 0)):
        write_record(tmp_path / "results", stream=key, seed=seed)
    board = collect(tmp_path / "results")
    assert set(board.records["stream"]) == {half[0], whole} and not board.refused


def test_digits_are_the_published_ones_and_one_pixel_makes_them_others():
    source = load(StreamConfig())
    assert source.variant == "" and fingerprint(source) == PUBLISHED["digits"].sha256
    pixels = source.train.images.clone()
    pixels[5, 0, 0, 0] ^= 1
    other = told_apart(canonical(replace(source, train=replace(source.train, images=pixels, content=None))))
    assert other.variant.startswith("other") and "not the same images" in other.note


CIFAR100 = os.environ.get("CILBENCH_CIFAR100")


@pytest.mark.skipif(CIFAR100 is None, reason="set CILBENCH_CIFAR100 to the folder that holds cifar-100-python/")
def test_the_digest_of_cifar100_is_of_the_published_images():
    """The oracle is the literature: the means of the channels over the training images."""
    source = load(replace(STREAMS["cifar100"], root=CIFAR100))
    means = source.train.images.double().mean((0, 2, 3)) / 255
    assert [round(mean, 4) for mean in means.tolist()] == [0.5071, 0.4865, 0.4409]
    assert fingerprint(source) == PUBLISHED["cifar100"].sha256 and source.variant == ""


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_sources_that_differ_in_one_thing_have_another_identity(data):
    """Either the identity differs or the rows are equal, bit for bit."""
    rows = data.draw(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=6, max_size=9))
    rows = [*rows, (0, 0), (1, 1), (2, 2)]
    changed = list(rows)
    at = data.draw(st.integers(0, len(rows) - 1))
    what = data.draw(st.sampled_from(["image", "label", "order"]))
    if what == "order":
        changed = data.draw(st.permutations(rows))
    else:
        label, shade = rows[at]
        changed[at] = (label, data.draw(st.integers(0, 3))) if what == "image" else (data.draw(st.integers(0, 2)), shade)
    streams = []
    for pairs in (rows, changed):
        labels = np.array([label for label, _ in pairs])
        images = torch.tensor([shade for _, shade in pairs], dtype=torch.uint8)[:, None, None, None].repeat(1, 3, 2, 2)
        source = canonical(Source("made", 1, Split(images, labels), Split(images[-3:], labels[-3:]), ("a", "b", "c")))
        if len(set(labels[-3:])) < 3:
            return
        streams.append(TaskStream(told_apart(source), StreamConfig(increment=1)))
    first, second = streams
    equal = torch.equal(first.train_rows[torch.arange(len(rows))].inputs, second.train_rows[torch.arange(len(rows))].inputs)
    equal &= torch.equal(first.train_rows.labels, second.train_rows.labels)
    equal &= torch.equal(first.scored_rows[[0, 1, 2]].inputs, second.scored_rows[[0, 1, 2]].inputs)
    assert (first.sha256 == second.sha256) == (first.key == second.key) == equal
