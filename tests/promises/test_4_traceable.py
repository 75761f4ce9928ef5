"""Promise 4: one run, one record that says everything; the same seed gives the same record; the counts follow from the predictions."""

import pandas as pd
import pytest

from bench import record as records
from bench.engine import run
from bench.evaluation import tally
from data.source import load
from data.stream import TaskStream

pytestmark = pytest.mark.slow


def test_same_seed_same_record(method_name, one_process, quick, accelerator):
    first, _ = one_process(method_name)
    again, path = run(quick(method_name), accelerator)
    assert records.stable(first) == records.stable(again)
    assert records.read(path) == again
    _counts_follow_from_predictions(quick(method_name), again, path)
    exemplars = again["memory"]["by_kind"].get("exemplars")
    assert exemplars is None or exemplars["items"] <= again["memory"]["budget"]


def _counts_follow_from_predictions(config, record, path):
    stream = TaskStream(load(config.stream), config.stream)
    saved = pd.read_parquet(path.with_name(f"{path.stem}-predictions.parquet"))
    for number in range(len(stream)):
        found = tally(saved[saved.after_task == number], stream, number)
        assert found["correct"] == record["counts"]["correct"][number]
        assert found["task_il_correct"] == record["counts"]["task_il_correct"][number]


def test_a_record_says_where_its_number_comes_from(one_process):
    record, path = one_process("gmm")
    assert record["limited"], "a stream cut short by a limit must be marked"
    assert set(record["weights"]) == {"efficientnet-lite0", "SmolLM2-135M-Instruct", "all-MiniLM-L6-v2"}
    assert all(len(value) == 64 for value in record["weights"].values())
    assert record["memory"]["by_kind"]["exemplars"]["bytes"] == 10 * 8 * 8 * 3  # 12 // 10 classes = 1 digit of 192 bytes each
    assert record["parameters"]["trainable"] == 1280 * 576 + 576
    assert record["environment"]["packages"]["torch"]
    saved = pd.read_parquet(path.with_name(f"{path.stem}-predictions.parquet"))
    assert saved.answer.str.len().gt(0).any()
