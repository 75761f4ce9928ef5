"""Promise 2: no task id and no test row reach a method, and predictions depend neither on the batch nor on the order."""

import inspect
from dataclasses import fields

import pytest
import torch

from data.stream import Task
from methods.base import Method

pytestmark = pytest.mark.slow


def predict(method, rows, batch_size: int) -> torch.Tensor:
    """-> class ids by row number of the source, so that the order of `rows` does not matter"""
    found = torch.full((int(rows.index.max()) + 1,), -1)
    with torch.inference_mode():
        for start in range(0, len(rows), batch_size):
            batch = rows[list(range(start, min(start + batch_size, len(rows))))]
            found[batch.index] = method.predict(batch.inputs).scores.argmax(1).cpu()
    return found


@pytest.mark.parametrize("batch_size", [1, 7])
def test_batch_size_and_order_change_no_prediction(method_name, trained, batch_size):
    method, stream = trained(method_name)
    rows = stream.seen(len(stream) - 1)
    shuffled = rows.at(torch.randperm(len(rows), generator=torch.Generator().manual_seed(1)))
    assert torch.equal(predict(method, rows, 64), predict(method, shuffled, batch_size))


def test_predictions_are_scores_of_seen_classes(method_name, trained):
    method, stream = trained(method_name)
    scores = method.predict(stream.test(0)[[0, 1]].inputs).scores
    assert scores.shape == (2, len(stream.class_names)) and torch.isfinite(scores).all()


def test_the_interface_carries_no_task_id_and_no_test_rows():
    assert list(inspect.signature(Method.predict).parameters) == ["self", "inputs"]
    assert {entry.name for entry in fields(Task)} == {"index", "classes", "class_names", "train", "mirrors"}


def test_scored_rows_come_mixed(trained):
    """Neither the order nor the batches of the scored rows tell the task."""
    _, stream = trained("ncm")
    tasks = stream.task_of(stream.seen(len(stream) - 1).labels)
    assert (tasks[1:] == tasks[:-1]).float().mean() < 0.5
