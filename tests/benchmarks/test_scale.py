"""Streams of 1,000 tasks and of 10,000 classes: time and memory of the harness, net of the method, do not grow with what was done.

A table is printed; ratios of late to early tasks within one run are asserted.  make benchmark
"""

import resource
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import engine
from bench.config import resolve
from data.source import Source, Split
from data.stream import TaskStream
from tests.benchmarks import cheap


def made(classes: int, train: int, test: int) -> Source:
    """-> noise in images of 2x2 pixels; each class its own colour"""
    draw = torch.Generator().manual_seed(0)
    colour = torch.randint(0, 256, (classes, 3, 2, 2), dtype=torch.uint8, generator=draw)
    parts = []
    for rows in (train, test):
        labels = np.arange(classes).repeat(rows)
        parts.append(Split(colour[torch.from_numpy(labels)], labels))
    return Source("made", 1, *parts, tuple(f"class {label}" for label in range(classes)))


def resident() -> float:
    """-> MiB in use now"""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


@pytest.mark.parametrize(
    ("classes", "increment", "per_class", "unit"),
    [(1000, 1, 2, "row"), (10_000, 100, 1, "score")],
    ids=["1,000 tasks", "10,000 classes"],
)
def test_late_tasks_cost_what_early_ones_do(classes, increment, per_class, unit, tmp_path, monkeypatch, accelerator):
    """unit: what a task's evaluation is in proportion to, a row scored, or where there are many classes a score, rows times classes"""
    tasks = classes // increment
    options = [f"stream.increment={increment}", "stream.cache_gib=0", "eval_batch_size=256", "progress=false", f"results={tmp_path}"]
    config = resolve(["plugins=[tests.benchmarks.cheap]", "method=cheap", "stream=digits", *options])
    monkeypatch.setattr(engine, "load", lambda options: made(classes, 2, per_class))
    lines: list[tuple[float, float, float]] = []  # after each task: seconds since the start, those in the method, MiB

    def note(_accelerator, _text):
        lines.append((time.perf_counter(), cheap.spent["method"], resident()))

    monkeypatch.setattr(engine, "say", note)
    note(None, "")
    record, _ = engine.run(config, accelerator)
    clock, method, memory = np.array(lines).T
    ours = np.diff(clock) - np.diff(method)  # seconds of the harness for each task
    seen = np.arange(1, tasks + 1) * increment * per_class
    units = seen * (np.arange(1, tasks + 1) * increment if unit == "score" else 1)
    # ours = fixed + rate x units, by least squares over all tasks but the first, which warms up
    rate, fixed = np.polyfit(units[1:], ours[1:], 1)
    tenth = max(tasks // 10, 5)
    net = ours - rate * units
    print(f"\n{tasks} tasks, {classes} classes: {1e3 * fixed:.1f} ms a task and {1e9 * rate:.1f} ns a {unit}")
    print(f"  task   rows scored   ms of the harness   ms net of {unit}s   ms of the method   MiB")
    for at in np.linspace(tenth, tasks, 5).astype(int):
        part = slice(max(at - tenth, 1), at)
        cells = (at, seen[at - 1], *(1e3 * np.median(values[part]) for values in (ours, net, np.diff(method))), memory[at])
        print("  {:>4} {:>13} {:>19.1f} {:>16.1f} {:>18.1f} {:>5.0f}".format(*cells))
    early, late = np.median(net[1 : tenth + 1]), np.median(net[-tenth:])
    grown = memory[-1] - memory[tenth]
    print(f"  late tasks take {late / early:.2f} of early ones, net of the {unit}s; memory grew by {grown:.0f} MiB")
    assert record["metrics"]["last_accuracy"] > 0.9 and len(record["counts"]["total"]) == tasks
    if unit == "row":
        assert late / early < 1.5
    else:  # nearly all of it is in proportion to the scores, and more for arrays that no longer fit the processor's cache
        assert np.median(ours[-tenth:]) < 1.5 * np.median(np.diff(method)[-tenth:])
    assert grown < 64


def test_rows_of_a_task_are_found_in_time_that_does_not_depend_on_the_number_of_tasks(monkeypatch):
    """All of a stream's rows, task by task, in 1,000 tasks and in 10: the same rows, so the time may differ by the calls alone."""
    from data.config import StreamConfig

    source = made(1000, 300, 100)
    times = {}
    for increment in (100, 1):
        stream = TaskStream(source, StreamConfig(increment=increment))
        before = time.perf_counter()
        rows = sum(len(stream[task].train) + len(stream.test(task)) for task in range(len(stream)))
        times[len(stream)] = time.perf_counter() - before
        assert rows == 400_000
    ratio = times[1000] / times[10]
    print(f"\nrows of 1,000 tasks against 10: {ratio:.1f} times as long, {1e6 * times[1000] / 1000:.0f} us a task")
    assert ratio < 20
