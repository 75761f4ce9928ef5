"""Every source on a tiny tree in its official layout; the whole of CIFAR-100 where it is at hand."""

import os
import pickle
from dataclasses import fields, replace

import pytest
import torch

from data.config import STREAMS
from data.errors import InputError
from data.images.files import imagenet_words
from data.source import load
from data.sources import SOURCES
from data.stream import TaskStream
from tests.data import trees

MAKERS = {
    "digits": lambda root: ["zero", "one"],
    "cifar10": lambda root: trees.cifar(root, 10),
    "cifar100": lambda root: trees.cifar(root, 100),
    **{name: getattr(trees, name) for name in SOURCES if hasattr(trees, name)},
}
MORE = {
    "imagenet_r": {"increment": 2, "image_size": 16},
    "tiny_imagenet": {"increment": 2},
    "imagenet100": {"image_size": 8},
    "imagenet1k": {"increment": 2, "order": "natural", "image_size": 8},
    "cub200": {"increment": 2, "image_size": 16},
    "caltech101": {"base": 2, "increment": 1, "image_size": 16},
    "mini_imagenet": {"increment": 2},
    "domainnet": {"image_size": 8},
    "folder": {"image_size": 16},
    "hub": {"image_size": 16},
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CILBENCH_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_every_source_becomes_a_stream(name, tmp_path):
    """Class names in order and different, every row decodable, tasks cut, key and hash told; the same on a second start."""
    root = tmp_path / "data"
    root.mkdir()
    said = MAKERS[name](root)
    more = dict(MORE.get(name, {}))
    if name == "imagenet1k":
        more["classes"] = str(root / "classes.txt")
    more |= {} if name == "digits" else {"root": str(root / "pets" if name == "hub" else root)}
    config = replace(STREAMS[name], **more)
    source = load(config)
    assert list(source.class_names[: len(said)]) == said
    assert len(set(source.class_names)) == len(source.class_names)
    stream = TaskStream(source, config)
    for task in range(len(stream)):
        batch = stream[task].train[[0]]
        assert batch.inputs.dtype == torch.uint8 and batch.inputs.shape[:2] == (1, 3)
    assert len(stream.seen(len(stream) - 1)) == len(stream.scored_rows)
    again = TaskStream(load(config), config)
    assert (again.key, again.sha256) == (stream.key, stream.sha256)
    assert stream.key.startswith(source.name)
    undecoded = TaskStream(load(config, decode=False), config)
    assert undecoded.sha256 == stream.sha256
    assert torch.equal(undecoded[0].train[[0]].inputs, stream[0].train[[0]].inputs)


def test_protocols_are_streams_over_sources():
    for name, config in STREAMS.items():
        assert config.source in SOURCES
        assert name == config.source or config.shots == 5
    assert {field.name for field in fields(STREAMS["hub"])} > {"image_column", "root"}


def test_imagenet_words_are_1000_and_different():
    words = imagenet_words()
    assert len(words) == len(set(words.values())) == 1000
    assert list(words) == sorted(words)
    assert words["n01440764"] == "tench" and words["n15075141"] == "toilet paper"


def test_core50_sessions_3_7_10_are_one_pool_after_every_task(tmp_path):
    trees.core50(tmp_path)
    config = replace(STREAMS["core50"], root=str(tmp_path))
    stream = TaskStream(load(config), config)
    assert (stream.scenario, len(stream), len(stream.class_names)) == ("domain", 8, 50)
    assert [len(stream.test(task)) for task in range(8)] == [150] + [0] * 7
    assert len(stream.seen(0)) == len(stream.seen(7)) == 150
    assert stream.classes(0) == stream.classes(5) == range(50)


def test_domainnet_tells_the_domains_of_rows_apart(tmp_path):
    trees.domainnet(tmp_path)
    config = replace(STREAMS["domainnet"], root=str(tmp_path), image_size=8, order=[3, 0, 1, 2, 4, 5])
    stream = TaskStream(load(config), config)
    rows = stream.seen(2)
    assert stream.task_of(rows.labels, rows.index).bincount().tolist() == [2, 2, 2]
    assert set(stream.task_of(rows.labels).tolist()) == {0}
    first = stream[0].train
    names = {first.store.names[row].split("/")[0] for row in first.index.tolist()}
    assert names == {stream.arrivals[0]} == {"quickdraw"}


def test_imagenet_r_takes_the_users_list_and_says_so_in_the_key(tmp_path):
    trees.imagenet_r(tmp_path)
    files = [f"{wnid}/art_{row}.jpg" for wnid in trees.WNIDS[10:14] for row in (0, 4)]
    (tmp_path / "test.txt").write_text("\n".join(files))
    config = replace(STREAMS["imagenet_r"], root=str(tmp_path), increment=2, image_size=16, test_list=str(tmp_path / "test.txt"))
    source = load(config)
    assert sorted(name.removeprefix("./") for name in source.test.images.names) == sorted(files)
    assert "list" in TaskStream(source, config).key
    (tmp_path / "test.txt").write_text("n00000000/none.jpg")
    with pytest.raises(InputError, match="n00000000/none.jpg"):
        load(config)


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.system, ("touch " + str(tmp_path / "ran"),))

    trees.cifar(tmp_path, 100)
    (tmp_path / "cifar-100-python" / "train").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(InputError, match="no pickle of plain arrays"):
        load(replace(STREAMS["cifar100"], root=str(tmp_path)))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", sorted(set(SOURCES) - {"digits"}))
def test_missing_data_are_one_sentence(name, tmp_path):
    for root in (None, str(tmp_path / "nowhere")):
        with pytest.raises(InputError, match="stream.root|cannot be loaded"):
            load(replace(STREAMS[name], root=root))


@pytest.mark.parametrize("name", ["cub200", "domainnet", "mini_imagenet", "tiny_imagenet"])
def test_a_list_that_is_cut_is_one_sentence(name, tmp_path):
    """Wherever it is cut; where that cannot be seen, between two rows of a list alone, what is left is loaded."""
    MAKERS[name](tmp_path)
    config, refused, tried = replace(STREAMS[name], root=str(tmp_path)), 0, 0
    for path in sorted(tmp_path.rglob("*.[tc][xs][tv]")):
        whole = path.read_bytes()
        for length in range(1, len(whole), 5):
            tried += 1
            path.write_bytes(whole[:length])
            try:
                load(config, decode=False)
            except InputError as error:
                refused += 1
                assert "\n" not in str(error)
        path.write_bytes(whole)
    assert refused > tried / 2


def test_cub200_lists_that_name_different_images_are_refused(tmp_path):
    trees.cub200(tmp_path)
    for name in ("images", "image_class_labels", "train_test_split"):
        path = tmp_path / "CUB_200_2011" / f"{name}.txt"
        whole = path.read_text()
        path.write_text("\n".join(whole.splitlines()[:-1]))
        with pytest.raises(InputError, match="gives no file, no class or no split for image 16"):
            load(replace(STREAMS["cub200"], root=str(tmp_path)))
        path.write_text(whole)


def test_imagenet_names_a_missing_class(tmp_path):
    trees.imagenet(tmp_path, trees.WNIDS[:3])
    with pytest.raises(InputError, match="lacks the folders of 997 of the 1000 classes"):
        load(replace(STREAMS["imagenet1k"], root=str(tmp_path)))


CIFAR100 = os.environ.get("CILBENCH_CIFAR100")


@pytest.mark.skipif(CIFAR100 is None, reason="set CILBENCH_CIFAR100 to the folder that holds cifar-100-python/")
def test_the_whole_of_cifar100():
    config = replace(STREAMS["cifar100"], root=CIFAR100)
    stream = TaskStream(load(config), config)
    assert stream.key == "cifar100-b0-inc10-o1993-v2"
    assert (len(stream), stream.order[:5], stream.class_names[:2]) == (10, (68, 56, 78, 8, 23), ("road", "palm tree"))
    assert torch.equal(stream.train_rows.labels.bincount(), torch.full((100,), 500))
    assert torch.equal(stream.scored_rows.labels.bincount(), torch.full((100,), 100))
    few = replace(STREAMS["cifar100-fscil"], root=CIFAR100)
    sizes = [len(task.train) for task in map(TaskStream(load(few), few).__getitem__, range(9))]
    assert sizes == [30000] + [25] * 8
