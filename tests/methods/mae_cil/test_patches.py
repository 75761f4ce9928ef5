"""Patches and the memory of them. Oracles: loops over pixels, and the byte counts of the paper's setting."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import InputError
from data.stream import Rows
from methods.config import MAECIL
from methods.mae_cil.memory import PatchMemory
from methods.mae_cil.patches import as_mask, as_pixels, as_positions, pack, to_images, to_patches, unpack, visible_count
from methods.memory.exemplars import ExemplarMemory


def pictures(count: int, side: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_patches_run_row_by_row():
    images = pictures(2, 12)
    patches = to_patches(images, 4)
    for number in range(9):
        row, column = divmod(number, 3)
        assert torch.equal(patches[1, number], images[1, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].flatten())
    assert torch.equal(to_images(patches, 4), images)


@settings(max_examples=40, deadline=None)
@given(grid=st.integers(1, 6), patch=st.integers(1, 4), count=st.integers(1, 4), data=st.data())
def test_round_trip_at_every_mask(grid, patch, count, data):
    """Visible pixels exact, hidden ones gone, the mask exact; bytes as counted."""
    kept = data.draw(st.integers(1, grid**2))
    chosen = torch.stack([torch.tensor(data.draw(st.permutations(range(grid**2)))[:kept]) for _ in range(count)])
    images, visible = pictures(count, grid * patch), as_mask(chosen, grid**2)
    pixels, bits = pack(images, visible, patch)
    assert pixels.numel() + bits.numel() == count * (kept * 3 * patch**2 + (grid**2 + 7) // 8)
    back, seen = unpack(pixels, bits, patch, grid**2)
    assert torch.equal(seen, visible)
    assert torch.equal(back, torch.where(as_pixels(visible, patch), images, 0))
    assert torch.equal(as_positions(visible), chosen.sort(1).values)


def test_visible_counts():
    assert [visible_count(64, 0.75), visible_count(64, 7 / 16), visible_count(196, 0.75), visible_count(1, 0.9)] == [16, 36, 49, 1]


def rows(classes: int, each: int, side: int = 32) -> Rows:
    labels = torch.arange(classes).repeat_interleave(each)
    return Rows(pictures(len(labels), side), torch.arange(len(labels)), labels)


def options(**changed) -> MAECIL:
    return MAECIL(**{"patch": 4, "mask_ratio": 0.75, "selection": "random", "memory_bytes": 2000 * 3072, **changed})


def test_bytes_of_the_papers_setting():
    """2,000 CIFAR images are 6,144,000 bytes: 8,000 times 16 patches of 48 bytes, less what the masks take."""
    memory, whole, plain = PatchMemory(options()), PatchMemory(options(masked_memory=False)), ExemplarMemory(0, budget_bytes=6_144_000)
    for one, item, items in ((memory, 768 + 8, 7917), (whole, 3072, 2000), (plain, 3072, 2000)):
        one.item_bytes = one.cost(rows(1, 1))
        assert (one.item_bytes, one.budget) == (item, items)
    memory.item_bytes = 768 + 16  # with a byte for each visible patch's number in place of a bit for each patch
    assert memory.budget == 7836
    memory.item_bytes = 768  # with the masks for nothing
    assert memory.budget == 8000


def test_what_is_counted_is_what_is_kept():
    memory, budget = PatchMemory(options(memory_bytes=40_000)), 40_000
    train = rows(6, 20)
    for task in range(3):
        memory.update(train, range(2 * task, 2 * task + 2), None, torch.Generator().manual_seed(task))
        held = sum(part.untyped_storage().nbytes() for pair in memory.packed.values() for part in pair)
        (stored,) = memory.stored()
        assert stored.bytes == held == stored.items * 776 <= budget
        assert stored.items == sum(len(bits) for _, bits in memory.packed.values()) <= stored.budget
        assert len({tuple(mask.tolist()) for mask in memory.images(sorted(memory.lists))[1]}) == stored.items  # no two masks alike
    assert {len(kept) for kept in memory.lists.values()} == {8}  # 51 items over 6 classes


def test_old_items_are_truncated_and_never_change():
    memory, train = PatchMemory(options(memory_bytes=776 * 20)), rows(4, 20)
    for task in range(2):
        before = {label: pixels for label, (pixels, _) in memory.packed.items()}
        memory.update(train, range(2 * task, 2 * task + 2), None, torch.Generator().manual_seed(task))
        assert all(torch.equal(memory.packed[label][0], pixels[:5]) for label, pixels in before.items())
    images, visible, labels = memory.images([2, 0])
    assert labels.tolist() == [2] * 5 + [0] * 5
    originals = train.store[torch.cat([memory.lists[2], memory.lists[0]])]
    assert torch.equal(images, torch.where(as_pixels(visible, 4), originals, 0))


def test_whole_images_are_kept_whole():
    memory, train = PatchMemory(options(masked_memory=False, memory_bytes=3072 * 4)), rows(2, 3)
    memory.update(train, range(2), None, torch.Generator())
    images, visible, _ = memory.images([0, 1])
    assert bool(visible.all()) and torch.equal(images, train.store[torch.cat([memory.lists[0], memory.lists[1]])])


def test_a_budget_below_one_item_a_class_is_refused():
    with pytest.raises(InputError, match="method.memory_bytes=1000 holds no exemplar for each of the 2 classes: set it to at least 1552"):
        PatchMemory(options(memory_bytes=1000)).update(rows(2, 3), range(2), None, torch.Generator())
    with pytest.raises(InputError, match="method.memory_bytes=0"):
        PatchMemory(options(memory_bytes=0))
    with pytest.raises(InputError, match="without method.per_class"):
        ExemplarMemory(0, per_class=3, budget_bytes=100)
