"""Every metric, from counts of right answers. Pure numpy; defined once, here, in words.

R[i][j] is the accuracy on the test rows of task j after learning task i (0-based, T tasks, known for j <= i). Counts, not
rates, are kept, so that means over images and means over tasks can both be made.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

Counts = Sequence[Sequence[int]]


def rates(correct: Counts, total: Sequence[int]) -> np.ndarray:
    """correct: [T][<=T], total: [T] rows a task -> R, float [T, T], nan where unknown"""
    tasks = len(correct)
    matrix = np.full((tasks, tasks), np.nan)
    for i, row in enumerate(correct):
        sizes = np.asarray(total[: len(row)])
        np.divide(row, sizes, out=matrix[i, : len(row)], where=sizes > 0)  # a task without scored rows of its own stays unknown
    return matrix


def accuracy_after_each_task(correct: Counts, total: Sequence[int]) -> list[float]:
    """A_i: right answers over test rows of tasks 0..i, in one pool (each image weighs the same)"""
    return [sum(row[: i + 1]) / sum(total[: i + 1]) for i, row in enumerate(correct)]


def accuracy_after_each_task_macro(correct: Counts, total: Sequence[int]) -> list[float]:
    """The mean of R[i][0..i]: each task weighs the same, whatever its size"""
    matrix = rates(correct, total)
    return [float(np.nanmean(matrix[i, : i + 1])) for i in range(len(matrix))]


def forgetting(matrix: np.ndarray) -> float | None:
    """Mean over j < T-1 of (max of R[l][j] over l in j..T-2) - R[T-1][j] (Chaudhry et al. 2018). Negative = it got better.

    Rows before task j was learnt do not count, nor does the last row. None for a single task.
    """
    tasks = len(matrix)
    drops = [matrix[j : tasks - 1, j].max() - matrix[-1, j] for j in range(tasks - 1)]
    return float(np.nanmean(drops)) if drops else None


def backward_transfer(matrix: np.ndarray) -> float | None:
    """Mean over j < T-1 of R[T-1][j] - R[j][j] (Lopez-Paz and Ranzato 2017). None for a single task."""
    gains = [matrix[-1, j] - matrix[j, j] for j in range(len(matrix) - 1)]
    return float(np.nanmean(gains)) if gains else None


def forward_transfer(matrix: np.ndarray, untrained: Sequence[float]) -> float | None:
    """Mean over j >= 1 of R[j-1][j] - r[j], r the accuracy of the untrained model. Needs scores on classes not yet seen."""
    gains = [matrix[j - 1, j] - untrained[j] for j in range(1, len(matrix))]
    return float(np.mean(gains)) if gains else None


def plasticity(matrix: np.ndarray) -> float:
    """Mean of R[j][j]: accuracy on each task just after it was learnt"""
    return float(np.nanmean(np.diag(matrix)))


def intransigence(matrix: np.ndarray, joint: np.ndarray) -> float:
    """Mean over j of R_joint[j][j] - R[j][j]: what was not learnt that a model of all data learns"""
    return float(np.mean(np.diag(joint) - np.diag(matrix)))


def performance_drop(after_each: Sequence[float]) -> float:
    """PD of few-shot class-incremental learning: A_0 - A_{T-1}"""
    return after_each[0] - after_each[-1]


def summarise(counts: dict[str, Any]) -> dict[str, Any]:
    """counts as in a record {correct, total, task_il_correct, invalid} -> the record's metrics, fractions in 0..1"""
    correct, total = counts["correct"], counts["total"]
    head = accuracy_after_each_task(counts["head_correct"], total) if counts.get("head_correct") is not None else None
    matrix = rates(correct, total)
    after_each = accuracy_after_each_task(correct, total)
    return {
        "last_accuracy": after_each[-1],
        "average_incremental_accuracy": float(np.mean(after_each)),
        "per_task_accuracy": after_each,
        "per_task_accuracy_macro": accuracy_after_each_task_macro(correct, total),
        "forgetting": forgetting(matrix),
        "backward_transfer": backward_transfer(matrix),
        "plasticity": plasticity(matrix),
        "performance_drop": performance_drop(after_each),
        "task_il_last_accuracy": accuracy_after_each_task(counts["task_il_correct"], total)[-1],
        "invalid_answer_rate": counts["invalid"][-1] / sum(total[: len(correct)]) if counts["invalid"] is not None else None,
        "head_last_accuracy": head[-1] if head else None,  # of the network's own head, where the method classifies otherwise
        "head_average_incremental_accuracy": float(np.mean(head)) if head else None,
    }
