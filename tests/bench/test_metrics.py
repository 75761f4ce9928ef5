"""Oracle: worked examples, each computed by hand (equal task sizes unless said)."""

import numpy as np
import pytest

from bench.metrics import (
    accuracy_after_each_task,
    accuracy_after_each_task_macro,
    backward_transfer,
    forgetting,
    forward_transfer,
    intransigence,
    performance_drop,
    plasticity,
    rates,
    summarise,
)

M1 = np.array([[0.9, 0.2, 0.1], [0.7, 0.8, 0.3], [0.6, 0.5, 0.85]])
M2 = np.array([[0.6, 0, 0], [0.8, 0.7, 0], [0.7, 0.75, 0.9]])
M3 = np.array([[0.9, 0.75, 0.7, 0.6], [0.85, 0.8, 0.72, 0.65], [0.8, 0.82, 0.9, 0.66], [0.78, 0.7, 0.85, 0.95]])
M4 = np.array([[0.9, 0.95, 0.5], [0.85, 0.8, 0.55], [0.8, 0.75, 0.9]])


def counts(matrix, sizes):
    return [[round(matrix[i, j] * sizes[j]) for j in range(i + 1)] for i in range(len(matrix))]


@pytest.mark.parametrize(
    ("matrix", "after_each", "average"),
    [
        (M1, [0.9, 0.75, 0.65], 0.766667),
        (M2, [0.6, 0.75, 0.783333], 0.711111),
        (M3, [0.9, 0.825, 0.84, 0.82], 0.84625),
        (M4, [0.9, 0.825, 0.816667], 0.847222),
    ],
)
def test_accuracies(matrix, after_each, average):
    total = [1000] * len(matrix)
    correct = counts(matrix, total)
    assert accuracy_after_each_task(correct, total) == pytest.approx(after_each, abs=1e-6)
    assert accuracy_after_each_task_macro(correct, total) == pytest.approx(after_each, abs=1e-6)
    assert np.mean(after_each) == pytest.approx(average, abs=1e-6)


def test_unequal_sizes_weigh_images_in_micro_and_tasks_in_macro():
    total = [100, 300, 600]
    correct = counts(M1, total)
    assert accuracy_after_each_task(correct, total) == pytest.approx([0.9, 0.775, 0.72])
    assert np.mean(accuracy_after_each_task(correct, total)) == pytest.approx(0.798333, abs=1e-6)
    assert np.mean(accuracy_after_each_task_macro(correct, total)) == pytest.approx(0.766667, abs=1e-6)


def test_base_of_fifty_classes():
    """50 classes at 80%, then 10 at 90%: micro .816667, macro .85."""
    correct, total = [[4000], [4000, 900]], [5000, 1000]
    assert accuracy_after_each_task(correct, total)[-1] == pytest.approx(0.816667, abs=1e-6)
    assert accuracy_after_each_task_macro(correct, total)[-1] == pytest.approx(0.85)


@pytest.mark.parametrize(
    ("matrix", "f_last", "f_before", "bwt"),
    [(M1, 0.3, 0.2, -0.3), (M2, 0.025, -0.2, 0.075), (M3, 0.096667, 0.04, -0.09), (M4, 0.075, 0.05, -0.075)],
)
def test_forgetting_and_backward_transfer(matrix, f_last, f_before, bwt):
    assert forgetting(matrix) == pytest.approx(f_last, abs=1e-6)
    assert forgetting(matrix[:-1, :-1]) == pytest.approx(f_before, abs=1e-6)
    assert backward_transfer(matrix) == pytest.approx(bwt, abs=1e-6)


def test_forgetting_ignores_scores_from_before_a_task_was_learnt():
    """M4: counting the zero-shot row would give .15."""
    assert forgetting(M4) == pytest.approx(0.075, abs=1e-6)


def test_forward_transfer():
    assert forward_transfer(M1, [0.1, 0.1, 0.1]) == pytest.approx(0.15)
    assert forward_transfer(M1, [0, 0, 0]) == pytest.approx(0.25)
    assert forward_transfer(M3, [0.6, 0.62, 0.58, 0.61]) == pytest.approx(0.106667, abs=1e-6)


def test_plasticity_and_intransigence():
    assert plasticity(M1) == pytest.approx((0.9 + 0.8 + 0.85) / 3)
    assert intransigence(M1, np.full((3, 3), 0.95)) == pytest.approx(0.95 - 0.85)


def test_published_curves():
    """PyCIL's iCaRL curve has mean 65.051; FACT's few-shot curve has mean 62.24 and drop 22.50."""
    curve = [89.8, 79.1, 74.27, 68.75, 64.44, 60.77, 58.09, 54.55, 51.34, 49.4]
    assert np.mean(curve) == pytest.approx(65.051)
    few_shot = [74.60, 72.09, 67.56, 63.52, 61.38, 58.36, 56.28, 54.24, 52.10]
    assert np.mean(few_shot) == pytest.approx(62.2367, abs=1e-4)
    assert performance_drop(few_shot) == pytest.approx(22.50)


def test_one_task_has_no_forgetting():
    found = summarise({"correct": [[7]], "total": [10], "task_il_correct": [[9]], "invalid": [1]})
    assert found["forgetting"] is None and found["backward_transfer"] is None
    assert found["last_accuracy"] == 0.7 and found["task_il_last_accuracy"] == 0.9 and found["invalid_answer_rate"] == 0.1


def test_rates_are_nan_where_unknown():
    assert np.isnan(rates([[1], [1, 2]], [2, 2])[0, 1])
