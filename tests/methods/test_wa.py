"""WA. Oracles: examples worked by hand, and that alignment is all that happens to the head after training."""

import math

import pytest
import torch

from data.errors import InputError
from methods import wa
from methods.learning.training import Session, session
from methods.wa import align, wa_loss


def test_new_weights_get_the_old_ones_length():
    weight = torch.tensor([[3.0, 4], [0, 5], [6, 8], [5, 12]])
    align(weight, 2)
    expected = torch.tensor([[3.0, 4], [0, 5], [2.608696, 3.478261], [2.173913, 5.217391]])
    torch.testing.assert_close(weight, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(weight @ torch.ones(2), torch.tensor([7.0, 5, 6.086957, 7.391304]), atol=1e-5, rtol=0)


def test_loss_by_hand():
    """Teacher (2, 0), student (1, 1, 3), label 2: distillation 0.693147, cross-entropy 0.239545, lambda 2/3."""
    found = wa_loss(torch.tensor([[1.0, 1, 3]]), torch.tensor([2]), torch.tensor([[2.0, 0]]), 2.0)
    assert found.item() == pytest.approx(0.541946, abs=1e-6)
    first = wa_loss(torch.tensor([[1.0, 1, 3]]), torch.tensor([2]), None, 2.0)
    assert first.item() == pytest.approx(0.239545, abs=1e-6)


def test_head_is_aligned_after_training_and_in_the_teacher(make, tasks, monkeypatch):
    """After each task but the first the mean lengths are equal; what the next task distils is the aligned network."""
    method, teachers = make("wa", memory=8, image_size=8), []
    plain = wa.old_logits
    monkeypatch.setattr(wa, "old_logits", lambda teacher, batch: teachers.append(teacher) or plain(teacher, batch))
    for number, task in enumerate(tasks):
        with session(Session(0, number, 2)):
            method.learn(task)
        if number == 0:
            first = method.net.head.weight.clone()
    lengths = method.net.head.weight.norm(dim=1)
    assert lengths[:2].mean().item() == pytest.approx(lengths[2:].mean().item(), rel=1e-5)
    assert teachers[0] is None and torch.equal(teachers[-1].head.weight, first) and method.teacher is None
    kinds = {kept.kind: kept for kept in method.stored()}
    assert kinds["exemplars"].items == 8 and kinds["teacher network"].bytes > 4 * 460_000
    assert math.isfinite(method.predict(tasks[0].train[[0]].inputs).scores.sum().item())


def test_a_cosine_head_has_no_lengths(make):
    with pytest.raises(InputError, match="head"):
        make("wa", head="cosine")
