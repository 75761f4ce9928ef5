"""What a run says of itself in its record: what the configuration and the seed decide, and what it took.

Shapes: T tasks.
"""

import resource
import sys
from typing import Any

import torch
from accelerate import Accelerator
from omegaconf import DictConfig

from bench import record as records
from bench.identity import begun, options_hash
from bench.metrics import summarise
from data.stream import TaskStream
from methods.base import Method, Stored


def result(config: DictConfig, stream: TaskStream, method: Method, plain: dict[str, Any], tasks: list[dict[str, Any]]) -> dict[str, Any]:
    """-> the part of the record that the configuration and the seed decide. tasks: what `tally` gave for each, and its bytes"""
    counts = {name: [one[name] for one in tasks] for name in ("correct", "task_il_correct", "invalid", "head_correct")}
    for name in ("invalid", "head_correct"):
        if any(value is None for value in counts[name]):
            counts[name] = None
    counts["total"] = stream.test_sizes()
    contents, code = begun(config)
    return {
        "schema": records.SCHEMA,
        "method": method.id(),
        "scoring": method.scoring,
        "stream": {
            "key": stream.key,
            "sha256": stream.sha256,
            "dataset": stream.source,
            "scenario": stream.scenario,
            "tasks": list(stream.sizes),
            "class_names": list(stream.class_names),
            "order": list(stream.order),
            "intake": None if stream.intake is None else stream.intake.plain(),
        },
        "seed": config.seed,
        "config": plain,
        "config_hash": options_hash(plain, contents),
        "contents": contents,
        "code": code,
        "counts": counts,
        "metrics": summarise(counts),
        "memory": _memory(method.stored(), [one["bytes"] for one in tasks]),
        "parameters": method.parameters(),
        "weights": method.weights(),
        "models": method.models(),
        "limited": stream.limited,
        "complete": True,
    }


def total_time(tasks: list[dict[str, float]], set_up: float) -> dict[str, Any]:
    """Seconds over all attempts; the set-up is this one's."""
    train, evaluation = (sum(one[name] for one in tasks) for name in ("train_s", "evaluate_s"))
    return {"train_s": train, "evaluate_s": evaluation, "total_s": set_up + train + evaluation, "per_task": tasks}


def within_budget(method: Method) -> list[Stored]:
    kept = method.stored()
    for one in kept:
        if one.budget is not None and one.items > one.budget:
            raise RuntimeError(f"{one.items} {one.kind} are kept where the budget is {one.budget}")
    return kept


def _memory(kept: list[Stored], per_task: list[int]) -> dict[str, Any]:
    budgets = [one.budget for one in kept if one.budget is not None]
    return {
        "items": sum(one.items for one in kept),
        "bytes": sum(one.bytes for one in kept),
        "budget": sum(budgets) if budgets else None,
        "by_kind": {one.kind: {"items": one.items, "bytes": one.bytes, "budget": one.budget} for one in kept},
        "per_task": per_task,
    }


def peak_memory(accelerator: Accelerator) -> int:
    if accelerator.device.type == "cuda":
        return torch.cuda.max_memory_allocated(accelerator.device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
