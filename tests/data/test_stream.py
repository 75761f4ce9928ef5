"""How a data set is cut into tasks: properties that hold for every stream."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.config import StreamConfig
from data.split import class_order, stratified, task_sizes
from data.stream import TaskStream, store_digest
from tests.data.toy import toy

ICARL = (
    "[87,0,52,58,44,91,68,97,51,15,94,92,10,72,49,78,61,14,8,86,84,96,18,24,32,45,88,11,4,67,69,66,77,47,79,93,29,50,57,83,17,81,41,12,37,"
    "59,25,20,80,73,1,28,6,46,62,82,53,9,31,75,38,63,33,74,27,22,36,3,16,21,60,19,70,90,89,43,5,42,65,76,40,30,23,85,2,95,56,48,71,64,98,"
    "13,99,7,34,55,54,26,35,39]"
)


orders = st.one_of(st.just("natural"), st.integers(0, 2**32 - 1))


@st.composite
def cuts(draw):
    """A source's number of classes with options that cut it"""
    classes = draw(st.integers(1, 24))
    if draw(st.booleans()):
        sizes, left = [], classes
        while left:
            sizes.append(draw(st.integers(1, left)))
            left -= sizes[-1]
        base = sizes.pop(0) if draw(st.booleans()) and len(sizes) > 1 else 0
        return classes, {"base": base, "increment": sizes}
    increment = draw(st.sampled_from([size for size in range(1, classes + 1) if classes % size == 0]))
    return classes, {"base": 0, "increment": increment}


@settings(max_examples=40, deadline=None)
@given(cuts(), orders)
def test_tasks_partition_the_classes_and_the_rows(cut, order):
    classes, options = cut
    stream = TaskStream(toy(classes), StreamConfig(order=order, **options))
    assert sorted(stream.order) == list(range(classes))
    arrived = [label for task in range(len(stream)) for label in stream.classes(task)]
    assert arrived == list(range(classes))
    for part in ("train", "test"):
        rows = [stream[task].train if part == "train" else stream.test(task) for task in range(len(stream))]
        index = torch.cat([one.index for one in rows])
        assert sorted(index.tolist()) == list(range(len(index))) and len(index) == classes * (6 if part == "train" else 2)
        assert all(set(one.labels.tolist()) == set(stream.classes(task)) for task, one in enumerate(rows))
        assert all((stream.task_of(one.labels) == task).all() for task, one in enumerate(rows))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), orders)
def test_renumbering_is_a_bijection_that_keeps_names(classes, order):
    source = toy(classes)
    stream = TaskStream(source, StreamConfig(order=order, increment=classes))
    original = torch.tensor(stream.order)[stream.train_rows.labels]
    assert torch.equal(original, torch.from_numpy(source.train.labels))
    assert all(stream.class_names[new] == source.class_names[old] for new, old in enumerate(stream.order))
    assert torch.equal(torch.tensor(np.argsort(stream.order))[original], stream.train_rows.labels)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 12), st.integers(1, 6), st.integers(0, 99), orders)
def test_few_shot_counts_are_exact(classes, shots, seed, order):
    config = StreamConfig(base=1, increment=1, shots=shots, shot_seed=seed, order=order)
    stream = TaskStream(toy(classes), config)
    assert [len(stream[task].train) for task in range(classes)] == [6] + [shots] * (classes - 1)
    assert [len(stream.test(task)) for task in range(classes)] == [2] * classes
    assert f"{shots}shot" in stream.key
    assert TaskStream(toy(classes), config).sha256 == stream.sha256


@settings(max_examples=20, deadline=None)
@given(cuts(), orders, st.integers(2, 8))
def test_every_rank_of_every_world_cuts_the_same_stream(cut, order, world):
    classes, options = cut
    seen = set()
    for rank in range(world):
        torch.manual_seed(rank)
        np.random.seed(rank)
        stream = TaskStream(toy(classes), StreamConfig(order=order, validation=0.3, **options))
        last = stream.seen(len(stream) - 1)
        seen.add((stream.key, stream.sha256, hashlib.sha256(last.index.numpy().tobytes()).hexdigest()))
    assert len(seen) == 1


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 8), st.integers(1, 6), orders)
def test_domains_are_tasks_and_the_classes_stay(classes, domains, order):
    stream = TaskStream(toy(classes, 12, 12, domains), StreamConfig(scenario="domain", increment=1, order=order))
    assert len(stream) == domains and all(stream.classes(task) == range(classes) for task in range(domains))
    assert sorted(stream.arrivals) == sorted(f"d{i}" for i in range(domains))
    for task in range(domains):
        rows = stream.test(task)
        assert (stream.task_of(rows.labels, rows.index) == task).all() and len(rows) == 12 // domains * classes + _extra(
            stream, task, classes
        )
        assert set(stream[task].train.labels.tolist()) == set(range(classes))
    assert len(stream.seen(domains - 1)) == 12 * classes


def _extra(stream: TaskStream, task: int, classes: int) -> int:
    return classes if stream.order[task] < 12 % len(stream) else 0


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.floats(0.05, 0.95))
def test_the_stratified_split_takes_its_share_of_each_class(counts, share):
    labels = np.repeat(np.arange(len(counts)), counts)
    test = stratified(labels, share)
    for label, count in enumerate(counts):
        assert test[labels == label].sum() == max(int(np.floor(share * count + 0.5)), 1)


def test_orders_of_the_literature():
    assert class_order("icarl", 100) == tuple(map(int, ICARL.strip("[]").split(",")))
    assert class_order(1993, 100)[:6] == (68, 56, 78, 8, 23, 84) and class_order(1993, 100)[-3:] == (49, 57, 33)
    assert class_order(1993, 200)[:4] == (168, 136, 51, 9) and class_order(1993, 200)[-2:] == (185, 161)
    assert class_order(1993, 1000)[:3] == (54, 7, 894) and class_order(1993, 1000)[-2:] == (697, 417)
    assert np.array_equal(class_order(1993, 100), np.random.RandomState(1993).permutation(100))


def test_sizes_of_the_literature():
    assert task_sizes(100, 0, 10) == (10,) * 10
    assert task_sizes(100, 50, 10) == (50, 10, 10, 10, 10, 10)
    assert task_sizes(10, 0, [2, 3, 5]) == (2, 3, 5)
    assert task_sizes(10, 4, [1, 5]) == (4, 1, 5)


def test_validation_rows_come_from_training_rows_and_test_rows_reach_nobody():
    source = toy(4, rows=10)
    stream = TaskStream(source, StreamConfig(validation=0.2))
    assert stream.scored_rows.store is source.train.images and stream.limited
    assert not set(stream.scored_rows.index.tolist()) & set(stream.train_rows.index.tolist())
    assert stream.scored_rows.labels.bincount().tolist() == [2] * 4 and stream.train_rows.labels.bincount().tolist() == [8] * 4
    assert "val0.2" in stream.key


@pytest.mark.parametrize("options", [{}, {"scenario": "domain"}, {"validation": 0.5}])
def test_the_first_tasks_alone(options):
    """They are what they are in the whole stream; the later classes or domains leave no row."""
    config = StreamConfig(increment=1, order=7, **options)
    whole, part = (TaskStream(toy(4, 8, 8, 4), replace(config, tasks=tasks)) for tasks in (None, 2))
    assert len(part) == 2 and part.limited and part.order == whole.order[:2] and "first2" in part.key
    for task in range(2):
        assert part[task].class_names == whole[task].class_names
        assert part[task].train.index.tolist() == whole[task].train.index.tolist()
    assert sorted(part.seen(1).index.tolist()) == sorted(whole.seen(1).index.tolist()) == sorted(part.scored_rows.index.tolist())
    assert len(part.train_rows) == len(part[0].train) + len(part[1].train)


def test_a_limit_counts_each_class_of_each_domain():
    stream = TaskStream(toy(3, 12, 12, 2), StreamConfig(scenario="domain", increment=1, limit=2))
    assert [len(stream[task].train) for task in range(2)] == [6, 6] == [len(stream.test(task)) for task in range(2)]


def test_the_hash_moves_with_pixels_labels_and_order():
    source, config = toy(4), StreamConfig()
    seen = {TaskStream(source, config).sha256, TaskStream(source, replace(config, order=1)).sha256}
    pixels = source.train.images.clone()
    pixels[0, 0, 0, 0] += 1
    seen.add(TaskStream(replace(source, train=replace(source.train, images=pixels)), config).sha256)
    labels = source.train.labels.copy()
    labels[[0, 1]] = labels[[1, 0]]
    seen.add(TaskStream(replace(source, train=replace(source.train, labels=labels)), config).sha256)
    assert len(seen) == 4 and store_digest(pixels) != store_digest(source.train.images)


def test_a_shot_list_by_number_and_by_folder(tmp_path):
    (tmp_path / "few.txt").write_text("4\n9\n")  # rows of class 4 in a toy of five classes
    stream = TaskStream(toy(5), StreamConfig(base=4, increment=1, shots=2, shot_list=str(tmp_path / "few.txt")))
    assert stream[1].train.index.tolist() == [4, 9] and "2shot-list" in stream.key
    (tmp_path / "session_2.txt").write_text("14\n19\n")
    other = TaskStream(toy(5), StreamConfig(base=4, increment=1, shots=2, shot_list=str(tmp_path)))
    assert other[1].train.index.tolist() == [14, 19] and other.key != stream.key
