"""Options and data that make no stream: each is refused in one sentence, and what is only odd is told."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from data.config import StreamConfig
from data.errors import InputError
from data.source import Source, Split, load
from data.stream import TaskStream
from tests.data.toy import toy


def bad_list(text: str):
    def options(tmp_path) -> dict:
        (tmp_path / "few.txt").write_text(text)
        return {"base": 2, "increment": 1, "shots": 2, "shot_list": str(tmp_path / "few.txt")}

    return options


@pytest.mark.parametrize(
    "options, said",
    [
        ({"increment": 3}, "stream.increment=3 does not divide the 1 classes"),
        ({"base": 5}, "stream.base=5 is more than the 4"),
        ({"increment": 9}, "stream.increment=9 is more than the 4"),
        ({"increment": 0}, "must be at least 1"),
        ({"increment": [1, 2]}, "add up to 3 where the stream has 4"),
        ({"increment": [4, 0]}, "at least 1"),
        ({"increment": "two"}, "stream.increment=two must be a whole number"),
        ({"increment": 2, "tasks": 3}, "stream.tasks=3 must lie between 1 and the 2 tasks"),
        ({"order": "alphabetic"}, "unknown stream.order 'alphabetic'"),
        ({"order": "icarl"}, "order of 100 classes"),
        ({"order": [0, 1, 2, 2]}, "no permutation"),
        ({"order": -1}, "is no seed"),
        ({"order": 1.5}, "unknown stream.order"),
        ({"scenario": "task"}, "unknown stream.scenario"),
        ({"scenario": "domain"}, "has no domains"),
        ({"validation": 1.5}, "between 0 and 1"),
        ({"validation": 0.99}, "lower stream.validation"),
        ({"shots": 7, "base": 2}, "give 6 rows of class 2"),
        ({"shots": 0, "base": 2}, "stream.shots=0"),
        ({"shots": 1, "increment": 4}, "more than one task"),
        (bad_list("2\n3\n6"), "give"),
        (bad_list("900"), "names row 900"),
        (bad_list("no/such.jpg"), "no/such.jpg"),
    ],
)
def test_bad_options_are_one_sentence(options, said, tmp_path):
    options = options(tmp_path) if callable(options) else options
    with pytest.raises(InputError, match=said) as caught:
        TaskStream(toy(4), StreamConfig(**options))
    assert "\n" not in str(caught.value)


def split_of(labels) -> Split:
    labels = np.array(labels)
    return Split(torch.zeros(len(labels), 3, 2, 2, dtype=torch.uint8), labels)


@pytest.mark.parametrize(
    "train, test, said",
    [
        ([0, 1], [0, 1, 2], "class 'c' of stream 'x' has test images but no training images"),
        ([0, 1, 2], [0, 1], "class 'c' of stream 'x' has training images but no test images"),
        ([0, 1], [0, 1], "class 'c' of stream 'x' has no images at all"),
        ([0, 1, 2, 3], [0, 1, 2], "training row 3 of stream 'x' has label 3 where the 3 classes are 0..2"),
        ([0, 1, 2], [0, -1, 2], "test row 1 of stream 'x' has label -1"),
    ],
)
def test_bad_data_are_one_sentence(train, test, said, monkeypatch):
    source = Source("x", 1, split_of(train), split_of(test), ("a", "b", "c"))
    with pytest.raises(InputError, match=said):
        _loaded(source, monkeypatch)


class Lazy:
    """What a source of one's own may give in place of a tensor."""

    def __init__(self, images):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows):
        return self.images[rows]


@pytest.mark.parametrize("wrap", [lambda images: images, Lazy])
@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda images: images.float() / 255, r"torch.float32 \[\d+, 3, 2, 2\]"),
        (lambda images: images.permute(0, 2, 3, 1), r"torch.uint8 \[\d+, 2, 2, 3\]"),
        (lambda images: images[:, :1], r"torch.uint8 \[\d+, 1, 2, 2\]"),
        (lambda images: images.numpy(), "ndarray"),
    ],
)
def test_what_is_no_image_is_refused(change, found, wrap, monkeypatch):
    """Numbers in 0..1 would be taken for nearly black ones."""
    source = toy(3)
    broken = replace(source, train=replace(source.train, images=wrap(change(source.train.images))))
    with pytest.raises(InputError, match=f"the training images of 'toy' are ({found}), where a tensor uint8"):
        _loaded(broken, monkeypatch)


def test_images_that_are_made_when_asked_for_are_those_of_a_tensor(monkeypatch):
    source = toy(3)
    lazy = replace(source, train=replace(source.train, images=Lazy(source.train.images)))
    plain, made = (TaskStream(_loaded(one, monkeypatch), StreamConfig(increment=1)) for one in (source, lazy))
    assert plain.key == made.key and plain.sha256 == made.sha256
    for one, other in zip(plain[1].train[[0, 3]], made[1].train[[0, 3]], strict=True):
        assert torch.equal(one, other)


def test_a_root_that_no_source_reads_is_refused(tmp_path):
    """Else a forgotten stream=folder would score digits."""
    with pytest.raises(InputError, match="stream.root=.* has no effect on stream source digits, which never reads it"):
        load(StreamConfig(root=str(tmp_path)))


def test_two_classes_of_one_name_are_refused(monkeypatch):
    with pytest.raises(InputError, match="two classes named 'a'"):
        _loaded(Source("x", 1, split_of([0, 1]), split_of([0, 1]), ("a", "a")), monkeypatch)


@pytest.mark.parametrize("labels, under", [([0, 1], ""), ([1, 0], ", 2 of them under another class")])
def test_duplicates_across_the_splits_are_counted(labels, under, monkeypatch, capsys):
    source = toy(2, rows=2)
    source = replace(source, test=Split(source.train.images[:2], np.array(labels)))
    name = _loaded(source, monkeypatch).name
    assert capsys.readouterr().err == f"warning: 2 test images of stream '{name}' are also training images{under}\n"


def _loaded(source: Source, monkeypatch) -> Source:
    import data.source

    monkeypatch.setitem(data.source.SOURCES, "made", "tests.data.test_refused_streams:made")
    monkeypatch.setitem(globals(), "made", lambda config: source)
    return load(StreamConfig("made"))


def test_an_unknown_source_is_answered_with_the_nearest():
    with pytest.raises(InputError, match="did you mean 'cifar100'"):
        load(StreamConfig("cifar_100"))
