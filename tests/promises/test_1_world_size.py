"""Promise 1: one process and two see the same batches, keep the same exemplars, score each test row once, end with equal weights.

The engine itself stops a run whose ranks differ after a task, or that scores a row twice.
"""

import json

import pandas as pd
import pytest

from bench.record import stable
from methods.base import method_class

pytestmark = pytest.mark.slow


def test_one_and_two_processes_agree(method_name, one_process, two_processes):
    record, path = one_process(method_name)
    other_path = two_processes / path.parent.parent.name / path.parent.name / path.name
    other = json.loads(other_path.read_text())
    assert record["environment"]["world_size"] == 1 and other["environment"]["world_size"] == 2
    one, two = (pd.read_parquet(at.with_name(f"{at.stem}-predictions.parquet")) for at in (path, other_path))
    assert one[["after_task", "index", "label"]].equals(two[["after_task", "index", "label"]])
    assert not one.duplicated(["after_task", "index"]).any()
    if not method_class(method_name).trained:
        assert stable(record) == stable(other)
        assert one.equals(two)
    else:
        assert record["memory"] == other["memory"]
        # Sums in another order differ in the last bits and training enlarges that, so the quick runs take small steps. Greedy
        # decoding turns a last bit into another word, on some processors more often than on others (0.87 of 12-image runs were alike on
        # one without AVX-512): words are not compared but to be mostly the same, and the scores where they are.
        same = one.answer == two.answer
        assert (one.prediction == two.prediction).mean() >= (0.97 if same.all() else 0.6) and same.mean() > 0.5
        assert abs(one.score - two.score)[same].max() < 0.05 * one.score.abs().max()
