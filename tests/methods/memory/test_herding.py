"""Herding (iCaRL, Algorithm 4) against worked examples and brute force, and the memory's quota rules."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from data.errors import InputError
from data.stream import Rows
from methods.memory.exemplars import ExemplarMemory, herd_classes, herding

FIVE = torch.tensor([(1, 0), (0, 1), (0.6, 0.8), (0.8, 0.6), (-0.6, 0.8)])


def distances(features, order):
    """the distance of the running mean of the chosen to the class mean, after each choice"""
    rows = normalize(features.double(), dim=1)
    mean = normalize(rows.mean(0), dim=0)
    return [float((mean - rows[order[:k]].mean(0)).norm()) for k in range(1, len(order) + 1)]


def test_worked_example():
    order = herding(FIVE, 5)
    assert order.tolist() == [2, 1, 3, 0, 4]  # with a mean that is not normalised again: 2, 1, 0, 4, 3
    assert distances(FIVE, order) == pytest.approx([0.131018, 0.192373, 0.075364, 0.292909, 0.265698], abs=1e-6)


def test_worked_example_prefix_up_to_ties():
    assert sorted(herding(FIVE[:4], 2).tolist()) == [2, 3]  # the two lie equally far from the mean
    assert herding(torch.tensor([(1, 0), (0.8, 0.6), (0, 1.0)]), 3).tolist() == [1, 2, 0]


def test_scale_does_not_matter():
    assert herding(FIVE * torch.tensor([[1.0], [7], [0.2], [3], [50]]), 5).tolist() == [2, 1, 3, 0, 4]


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 9), st.integers(1, 4), st.integers(0, 12), st.integers(0, 2**31))
def test_equals_brute_force(count, width, wanted, seed):
    features = torch.randn(count, width, generator=torch.Generator().manual_seed(seed)).double()
    rows = normalize(features, dim=1)
    mean = normalize(rows.mean(0), dim=0)
    order = herding(features, wanted).tolist()
    assert len(order) == len(set(order)) == min(count, wanted)
    for k, chosen in enumerate(order, 1):
        options = {i: float((mean - rows[[*order[: k - 1], i]].mean(0)).norm()) for i in range(count) if i not in order[: k - 1]}
        assert options[chosen] == pytest.approx(min(options.values()), abs=1e-9)  # the greedy best, up to ties


def test_classes_together_equal_classes_apart():
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(40, 6, generator=generator), torch.tensor([0] * 3 + [1] * 20 + [2] * 17)
    shuffled = torch.randperm(40, generator=generator)
    features, labels = features[shuffled], labels[shuffled]
    together = herd_classes(features, labels, (0, 1, 2), 5)
    for label, picked in enumerate(together):
        members = torch.nonzero(labels == label).flatten()
        assert picked.tolist() == members[herding(features[members], 5)].tolist()
    assert [len(picked) for picked in together] == [3, 5, 5]


def rows_of(classes, each=60):
    labels = torch.arange(classes).repeat_interleave(each)
    return Rows(torch.zeros(len(labels), 3, 32, 32, dtype=torch.uint8), torch.arange(len(labels)), labels)


def fill(memory, steps, classes=100, step=10, features=None):
    train = rows_of(classes)
    features = features or (lambda rows: torch.randn(len(rows), 2, generator=torch.Generator().manual_seed(0)))
    for first in range(0, steps * step, step):
        memory.update(train, range(first, first + step), features, torch.Generator().manual_seed(first))
        yield train


@pytest.mark.parametrize(("classes", "floor", "ceil"), [(30, 66, 67), (60, 33, 34), (70, 28, 29), (90, 22, 23), (50, 40, 40)])
def test_quota_of_2000(classes, floor, ceil):
    assert ExemplarMemory(2000).quota(classes) == floor
    assert ExemplarMemory(2000, rounding="ceil").quota(classes) == ceil


@pytest.mark.parametrize("selection", ["herding", "random"])
def test_the_budget_is_never_exceeded(selection):
    memory = ExemplarMemory(95, selection)
    for _ in fill(memory, 9):
        (kept,) = memory.stored()
        assert kept.items == len(memory) <= 95 == kept.budget
        assert kept.bytes == kept.items * 3072
    assert len(memory) == 90


def test_per_class_budget():
    memory = ExemplarMemory(0, per_class=3)
    for number, _ in enumerate(fill(memory, 3), 1):
        assert memory.stored()[0].items == memory.stored()[0].budget == 30 * number


def test_shrinking_truncates_the_stored_order():
    memory = ExemplarMemory(100)
    steps = fill(memory, 4)
    next(steps)
    first = {label: rows.tolist() for label, rows in memory.lists.items()}
    for _ in steps:
        pass
    assert len(memory.lists[0]) == 2
    assert all(memory.lists[label].tolist() == first[label][:2] for label in range(10))


def test_features_are_asked_for_once_a_task():
    asked = []

    def features(rows):
        asked.append(len(rows))
        return torch.randn(len(rows), 2)

    list(fill(ExemplarMemory(100), 2, features=features))
    assert asked == [600, 600]


def test_a_memory_smaller_than_the_classes_is_named():
    with pytest.raises(InputError, match=r"method\.memory=15 .* 20 classes"):
        list(fill(ExemplarMemory(15), 2))


@pytest.mark.parametrize("wrong", [{"budget": -1}, {"selection": "best"}, {"rounding": "up"}, {"per_class": 0}])
def test_wrong_options(wrong):
    with pytest.raises(InputError):
        ExemplarMemory(**{"budget": 10, **wrong})


def test_state_comes_back():
    memory, again = ExemplarMemory(100), ExemplarMemory(100)
    (train,) = fill(memory, 1)
    again.load_state_dict(memory.state_dict())
    assert torch.equal(again.rows(train).index, memory.rows(train).index)
    assert again.stored() == memory.stored()
