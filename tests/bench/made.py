"""Made records: valid, with the numbers that a test asks for."""

from pathlib import Path
from typing import Any

import numpy as np

from bench import record as records
from bench.identity import options_hash
from bench.metrics import summarise


def make_record(
    method: str = "icarl", seed: int = 0, stream: str = "made-b0-inc2-natural-v1", tasks: int = 3, size: int = 2, **changes: Any
) -> dict:
    """-> a sound record without digest; accuracy depends on the method's name, the seed and the task"""
    draw = np.random.default_rng([seed, *method.encode(), *stream.encode()])
    rows = 50
    correct = [[int(rows * (0.9 - 0.7 * (i - j) / tasks) - draw.integers(0, 5)) for j in range(i + 1)] for i in range(tasks)]
    counts = {"correct": correct, "total": [rows] * tasks, "task_il_correct": [[rows - 2] * (i + 1) for i in range(tasks)], "invalid": None}
    record = {
        "schema": records.SCHEMA,
        "method": method,
        "scoring": "argmax",
        "stream": {
            "key": stream,
            "sha256": "0" * 64,
            "dataset": stream.split("-")[0],
            "scenario": "class",
            "tasks": [size] * tasks,
            "class_names": [f"class {label}" for label in range(size * tasks)],
            "order": list(range(size * tasks)),
        },
        "seed": seed,
        "config": {"method": {"name": method, "lr": 0.1}, "stream": {"source": "made"}, "seed": seed},
        "contents": {},
        "code": {"digest": "c0de" * 16, "files": {}, "versions": {}},
        "counts": counts,
        "memory": {"items": 100, "bytes": 6400, "budget": 100, "by_kind": {"exemplars": {"items": 100, "bytes": 6400}}, "per_task": []},
        "parameters": {"total": 1000, "trainable": 500},
        "time": {"train_s": 2.0 + seed, "evaluate_s": 0.5, "total_s": 3.0, "per_task": [{"train_s": 0.5, "evaluate_s": 0.1}] * tasks},
        "peak_memory_bytes": 1,
        "weights": {},
        "environment": {"world_size": 1, "dirty": False, "device": "cpu"},
        "limited": False,
        "complete": True,
        "started": "2026-01-01T00:00:00+00:00",
        "finished": "2026-01-01T00:00:03+00:00",
    }
    record |= changes
    record.setdefault("config_hash", options_hash(record["config"], record["contents"]))
    record.setdefault("metrics", summarise(record["counts"]))
    return record


def write_record(folder: Path, **changes: Any) -> Path:
    record = make_record(**changes)
    path = folder / record["stream"]["key"] / "made" / f"{record['config_hash']}-{len(list(folder.rglob('*.json')))}-s0.json"
    records.write(record, path)
    return path
