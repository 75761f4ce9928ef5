"""The second stage of a task of MAE-CIL. Oracles: what it may change, and on which images."""

from dataclasses import replace

import pytest
import torch

import methods.mae_cil.method
from methods.learning.training import Session, session
from methods.mae_cil.memory import KEPT, MADE

SMALL = {"memory_bytes": None, "memory": 8, "mask_ratio": 0.75, "width": 16, "depth": 3, "warmup": 2, "balanced_epochs": 2}


def learnt(method, tasks):
    for number, task in enumerate(tasks):
        with session(Session(task=number)):
            method.learn(task)
    return method


@pytest.mark.parametrize(("detail", "parts"), [(True, {"pooled", "fuse", "head"}), (False, {"pooled", "head"})])
def test_the_classifier_alone_trains_on_completed_exemplars(make, tasks, watch, detail, parts):
    seen = watch(methods.mae_cil.method)
    method = learnt(make("mae_cil", **SMALL, balanced_lr=0.02, detail=detail), tasks)
    assert len(seen) == 3  # none in the first task, where nothing is out of balance
    rows, changed, options = seen[2]
    assert torch.bincount(rows.labels).tolist() == [2, 2, 2, 2]
    assert {name.split(".")[0] for name in changed} == parts
    assert all(p.requires_grad for p in method.net.parameters())
    assert (options.epochs, options.lr, options.batch_size, options.warmup) == (2, 0.02, method.config.batch_size, 0)
    images, visible, _ = method.memory.images(range(4))
    shown = rows[list(range(8))].inputs
    assert set(shown[:, 3].unique().tolist()) == {MADE, KEPT}
    with torch.no_grad():  # by the network as it is: what completes images has not moved since
        assert torch.equal(shown[:, :3], method.net.complete(images, visible))


def test_it_is_of_later_tasks_and_of_a_memory(make, tasks, watch):
    """A later domain brings the classes of the first: it is the task that counts, not the number of its first class."""
    seen = watch(methods.mae_cil.method)
    again = replace(tasks[0], index=1)
    learnt(make("mae_cil", **SMALL), [tasks[0], again])
    assert len(seen) == 3
    learnt(make("mae_cil", **SMALL | {"memory": 0}), tasks)
    learnt(make("mae_cil", **SMALL | {"balanced_epochs": 0}), tasks)
    assert len(seen) == 7
