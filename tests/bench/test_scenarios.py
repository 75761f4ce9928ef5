"""Domain-incremental and few-shot streams through the whole engine, for every registered method. Oracle: counts by hand."""

import numpy as np
import pandas as pd
import pytest
import torch

from bench.config import resolve
from bench.engine import run
from data.errors import InputError
from data.source import Source, Split, load
from data.sources import SOURCES, digits
from methods.base import method_class
from tests.conftest import QUICK


def inverted(config) -> Source:
    """Digits in two domains: as scanned, and white on black."""
    source = digits.load(config)

    def both(split: Split) -> Split:
        domains = np.arange(len(split.labels)) // 2 % 2  # of each pair of rows in order
        images = torch.where(torch.from_numpy(domains == 1)[:, None, None, None], 255 - split.images, split.images)
        return Split(images, split.labels, domains)

    return Source("inverted", 1, both(source.train), both(source.test), digits.CLASS_NAMES, ("scanned", "inverted"), mirrors=False)


@pytest.fixture
def configure(monkeypatch, tmp_path):
    monkeypatch.setitem(SOURCES, "inverted", "tests.bench.test_scenarios:inverted")

    def resolved(method: str, *overrides: str):
        return resolve([f"method={method}", *QUICK.get(method, []), "progress=false", f"results={tmp_path}", *overrides])

    return resolved


def test_domains(method_name, configure, accelerator):
    config = configure(method_name, "stream=inverted", "stream.scenario=domain", "stream.increment=1", "stream.limit=2")
    if "domain" not in method_class(method_name).scenarios:
        with pytest.raises(InputError, match="needs tasks that bring new classes"):
            run(config, accelerator)
        return
    record, path = run(config, accelerator)
    assert record["stream"]["scenario"] == "domain" and record["stream"]["tasks"] == [1, 1]
    assert record["stream"]["class_names"] == list(digits.CLASS_NAMES)
    assert record["counts"]["total"] == [20, 20]  # ten classes, two rows of each in each domain
    assert [len(row) for row in record["counts"]["correct"]] == [1, 2]
    assert record["counts"]["task_il_correct"] == record["counts"]["correct"]  # the classes are all classes in every task
    scored = pd.read_parquet(path.with_name(f"{path.stem}-predictions.parquet"))
    test = load(config.stream).test  # the index is of the rows as they are loaded, by class and content
    domains = (test.images[:, 0, 0, 0].numpy() > 127).astype(int)  # the first corner of a scanned digit is black
    assert (scored["task"] == domains[scored["index"]]).all() and set(scored["prediction"]) <= set(range(10))
    budget = record["memory"]["budget"]
    assert budget is None or record["memory"]["items"] == budget // 10 * 10


def test_distillation_of_classes_needs_new_ones(configure, accelerator):
    """Said before anything is trained, not when the second domain comes."""
    domains = ("stream=inverted", "stream.scenario=domain", "stream.increment=1", "stream.limit=2")
    with pytest.raises(InputError, match="needs tasks that bring new classes"):
        run(configure("mae_cil", *domains, "method.distillation=1", "stream.tasks=1"), accelerator)


def test_few_shots(method_name, configure, accelerator):
    config = configure(method_name, "stream=digits", "stream.base=6", "stream.increment=2", "stream.shots=2", "stream.limit=4")
    record, _ = run(config, accelerator)
    assert record["stream"]["tasks"] == [6, 2, 2] and "-2shot-" in record["stream"]["key"]
    accuracy = [sum(row) / (4 * classes) for row, classes in zip(record["counts"]["correct"], (6, 8, 10), strict=True)]
    assert record["metrics"]["per_task_accuracy"] == pytest.approx(accuracy)
    assert record["metrics"]["performance_drop"] == pytest.approx(accuracy[0] - accuracy[-1])
    assert record["metrics"]["average_incremental_accuracy"] == pytest.approx(np.mean(accuracy))
