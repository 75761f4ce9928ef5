"""The exemplar memory. Oracles: worked examples and brute force."""

import io
import zipfile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from data.errors import InputError
from data.stream import Rows
from methods.memory.exemplars import ExemplarMemory, herding, mixed


def test_worked_examples():
    rows = torch.tensor([[1, 0], [0, 1], [0.6, 0.8], [0.8, 0.6], [-0.6, 0.8]])
    assert herding(rows, 5).tolist() == [2, 1, 3, 0, 4]  # with the class mean at unit length, as the paper has it
    assert herding(torch.tensor([[1, 0], [0.8, 0.6], [0, 1.0]]), 3).tolist() == [1, 2, 0]
    assert sorted(herding(rows[:4], 2).tolist()) == [2, 3]  # equally far from the mean: either may come first


@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 12), size=st.integers(1, 5), seed=st.integers(0, 99))
def test_each_choice_is_the_best_one(count, size, seed):
    """Brute force over all rows left, one choice after another."""
    rows = torch.randn(count, size, generator=torch.Generator().manual_seed(seed)).double()
    unit = normalize(rows, dim=1)
    mean, left, chosen = normalize(unit.mean(0), dim=0), list(range(count)), []
    for _ in range(count):
        best = min(left, key=lambda row: float((mean - torch.stack([unit[i] for i in [*chosen, row]]).mean(0)).norm()))
        left.remove(best)
        chosen.append(best)
    ours = herding(rows, count).tolist()
    distance = [float((mean - unit[ours[: k + 1]].mean(0)).norm()) for k in range(count)]
    expected = [float((mean - unit[chosen[: k + 1]].mean(0)).norm()) for k in range(count)]
    assert sorted(ours) == list(range(count))
    assert distance[0] == pytest.approx(expected[0], abs=1e-9)
    assert ours == chosen or any(abs(a - b) < 1e-9 for a, b in zip(distance, expected, strict=True))  # a tie may go either way


def rows(classes: int = 10, each: int = 20) -> Rows:
    labels = torch.arange(classes).repeat_interleave(each)
    images = torch.randint(0, 255, (len(labels), 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Rows(images, torch.arange(len(labels)), labels)


def features(part: Rows) -> torch.Tensor:
    return part.store[part.index].float().flatten(1)


@pytest.mark.parametrize("selection", ["herding", "random"])
def test_budget_is_never_exceeded_and_lists_are_truncated(selection):
    """K = 20 over 2, 4, … 10 classes: 10, 5, 3, 2, 2 each; never chosen again."""
    memory, train = ExemplarMemory(20, selection), rows()
    quotas = []
    for task in range(5):
        before = {label: kept.tolist() for label, kept in memory.lists.items()}
        memory.update(train, range(2 * task, 2 * task + 2), features, torch.Generator().manual_seed(task))
        quotas.append(len(memory.lists[0]))
        assert len(memory) <= 20
        assert all(memory.lists[label].tolist() == kept[: quotas[-1]] for label, kept in before.items())
        assert all((train.labels[kept] == label).all() for label, kept in memory.lists.items())
    assert quotas == [10, 5, 3, 2, 2]
    assert memory.stored()[0].bytes == 20 * 192


@pytest.mark.parametrize(("classes", "each"), [(30, 66), (60, 33), (70, 28), (90, 22), (100, 20)])
def test_quota_of_two_thousand(classes, each):
    memory = ExemplarMemory(2000, "random")
    memory.update(rows(classes, 100), range(classes), features, torch.Generator())
    assert {len(kept) for kept in memory.lists.values()} == {each}


def test_a_budget_smaller_than_the_classes_is_refused():
    with pytest.raises(InputError, match="method.memory=3 holds no exemplar for each of the 4 classes"):
        ExemplarMemory(3).update(rows(4), range(4), features, torch.Generator())


def test_a_budget_is_checked_against_all_classes_of_the_stream():
    ExemplarMemory(100).check(100), ExemplarMemory(0).check(100), ExemplarMemory(0, per_class=1).check(100)
    with pytest.raises(InputError, match="method.memory=99 holds no exemplar for each of the 100 classes: set it to 0 or at least 100"):
        ExemplarMemory(99).check(100)


def test_no_memory_keeps_nothing():
    memory = ExemplarMemory(0)
    memory.update(rows(2), range(2), features, torch.Generator())
    assert len(memory) == 0 and memory.stored() == [] and len(memory.rows(rows(2))) == 0


@settings(max_examples=30, deadline=None)
@given(
    tasks=st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=4, unique=True), max_size=4),
    selection=st.sampled_from(["herding", "random"]),
    own_copy=st.booleans(),
)
def test_state_survives_a_file(tasks, selection, own_copy):
    """Whatever was learnt, in whatever order of classes: the same memory comes back, and goes on as the one that was never saved."""
    memory, again, train = (*(ExemplarMemory(20, selection, own_copy=own_copy) for _ in range(2)), rows())

    def learn(one: ExemplarMemory, classes: list[int]) -> None:
        part = train.at(torch.nonzero(torch.isin(train.labels, torch.tensor(classes))).flatten())
        one.update(part, classes, features, torch.Generator().manual_seed(len(classes)))

    for classes in tasks:
        learn(memory, classes)
    file = io.BytesIO()
    torch.save(memory.state_dict(), file)
    file.seek(0)
    again.load_state_dict(torch.load(file, weights_only=True))
    for last in ([], [3, 0]):
        for one in (memory, again) if last else ():
            learn(one, last)
        assert list(again.lists) == list(memory.lists) and list(again.copies) == list(memory.copies) and again.visits == memory.visits
        assert all(torch.equal(again.lists[label], kept) for label, kept in memory.lists.items())
        assert all(torch.equal(again.copies[label], kept) for label, kept in memory.copies.items())
        assert again.stored() == memory.stored() and again.item_bytes == memory.item_bytes


def test_ten_thousand_classes_are_saved_as_a_few_tensors(tmp_path):
    memory = ExemplarMemory(20_000, "random")
    memory.lists = {label: torch.tensor([2 * label, 2 * label + 1]) for label in range(10_000)}
    torch.save(memory.state_dict(), tmp_path / "state.pt")
    with zipfile.ZipFile(tmp_path / "state.pt") as file:
        assert len([name for name in file.namelist() if "/data/" in name]) == 6
    assert (tmp_path / "state.pt").stat().st_size < 600_000  # 20,000 row numbers, 10,000 classes and lengths: 320,000


@settings(max_examples=40, deadline=None)
@given(domains=st.integers(1, 6), quota=st.integers(1, 12), each=st.integers(1, 12))
def test_domains_share_the_quota_of_a_class(domains, quota, each):
    """Brute force over what is kept: no domain has less than its share, nor more while another has as many to give."""
    memory = ExemplarMemory(quota, "random")
    store = torch.zeros(domains * each, 3, 2, 2, dtype=torch.uint8)
    for domain in range(domains):
        index = torch.arange(domain * each, (domain + 1) * each)
        memory.update(Rows(store, index, torch.zeros(each, dtype=torch.int64)), range(1), features, torch.Generator())
        kept = torch.bincount(memory.lists[0] // each, minlength=domain + 1)
        assert len(memory) <= quota and len(memory.lists[0].unique()) == len(memory)
        share = min(quota // (domain + 1), each)
        assert kept.min() >= share and kept.max() <= max(share + 1, quota - domain * each)


def test_two_domains_alternate():
    assert mixed(4, 9, 1, 4).tolist() == [0, 4, 1, 5]  # of domain one the best two, of domain two (numbered from 4) the best two
    assert mixed(4, 9, 2, 6).tolist() == [0, 1, 4, 2, 3, 5]  # a third domain after each two
    assert mixed(0, 9, 0, 3).tolist() == [0, 1, 2]
    assert mixed(5, 0, 1, 3).tolist() == [0, 1, 2]
