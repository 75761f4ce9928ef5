"""The only loop over tasks: learn, evaluate, record. Knows no method and no data set by name.

Shapes: b batch, C classes seen, N rows, T tasks.
"""

import hashlib
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.utils import gather_object, set_seed
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from bench import record as records
from bench.config import config_hash
from bench.metrics import summarise
from bench.tracking import Tracking, check_tracker
from data.cache import atomic
from data.errors import InputError
from data.source import load
from data.stream import Batch, Rows, TaskStream
from methods.base import Method, Stored, method_class
from methods.batches import derive_seed
from methods.features import with_features
from methods.training import Session, embed, session


def make_accelerator(config: DictConfig) -> Accelerator:
    """-> the accelerator of this process; started by `accelerate launch`, torchrun or plainly"""
    check_tracker(config.tracker)
    cpu, world = not torch.cuda.is_available(), int(os.environ.get("WORLD_SIZE", "1"))
    handlers = [InitProcessGroupKwargs(backend="gloo")] if cpu and world > 1 else []
    accelerator = Accelerator(
        cpu=cpu,
        mixed_precision=config.precision,
        kwargs_handlers=handlers,
        log_with=None if config.tracker == "none" else config.tracker,
        project_dir=config.results,
    )
    if accelerator.num_processes != world:
        raise RuntimeError(f"{accelerator.num_processes} processes joined where {world} were launched")
    return accelerator


def run(config: DictConfig, accelerator: Accelerator | None = None) -> tuple[dict[str, Any], Path]:
    """Run one method over one stream. -> the record and its path (on every rank; the main one writes)"""
    started, clock = records.now(), time.perf_counter()
    accelerator = accelerator or make_accelerator(config)
    stream = TaskStream(load(config.stream), config.stream)
    path = records.record_path(config.results, stream.key, config.method.name, config_hash(config), config.seed)
    _check_writable(path.parent)
    method = make_method(config, accelerator, stream)
    plain = OmegaConf.to_container(config, resolve=True)
    tracking = Tracking(accelerator, plain, stream.key, method.id(), config_hash(config))
    counts: dict[str, Any] = {
        "correct": [],
        "total": [len(stream.test(task)) for task in range(len(stream))],
        "task_il_correct": [],
        "invalid": [],
        "head_correct": [],
    }
    times, memory, predictions = [], [], []
    for number in range(len(stream)):
        before = time.perf_counter()
        learn(config, accelerator, method, stream, number, tracking.training)
        between = time.perf_counter()
        scored = evaluate(accelerator, method, stream, number, config)
        times.append({"train_s": between - before, "evaluate_s": time.perf_counter() - between})
        predictions.append(scored)
        memory.append(sum(kept.bytes for kept in _within_budget(method)))
        for name, values in tally(scored, stream, number).items():
            counts[name].append(values)
        accuracy = sum(counts["correct"][-1]) / len(scored)
        tracking.task(counts["correct"][-1], counts["total"])
        say(accelerator, f"task {number + 1}/{len(stream)}: accuracy {accuracy:.1%} over {stream.classes(number).stop} classes")
    for name in ("invalid", "head_correct"):
        if any(value is None for value in counts[name]):
            counts[name] = None
    record = {
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
        },
        "seed": config.seed,
        "config": plain,
        "config_hash": config_hash(config),
        "counts": counts,
        "metrics": summarise(counts),
        "memory": _memory(method.stored(), memory),
        "parameters": method.parameters(),
        "time": {
            "train_s": sum(one["train_s"] for one in times),
            "evaluate_s": sum(one["evaluate_s"] for one in times),
            "total_s": time.perf_counter() - clock,
            "per_task": times,
        },
        "peak_memory_bytes": _peak_memory(accelerator),
        "weights": method.weights(),
        "environment": records.environment(accelerator),
        "limited": stream.limited,
        "complete": True,
        "started": started,
        "finished": records.now(),
    }
    if accelerator.is_main_process:
        with atomic(path.with_name(f"{path.stem}-predictions.parquet")) as work:
            pd.concat(predictions).to_parquet(work, index=False)
        record = records.write(record, path)
    accelerator.wait_for_everyone()
    tracking.finish(record, path)
    return record, path


def make_method(config: DictConfig, accelerator: Accelerator, stream: TaskStream) -> Method:
    """-> the method, alike on every rank; if it has a frozen encoder, the stream gives its cached features from now on"""
    set_seed(derive_seed(config.seed) % 2**32)
    method = method_class(config.method.name)(config.method, accelerator)
    if method.encoder is not None:
        stream.train_rows = with_features(accelerator, method.encoder, stream.train_rows)
        stream.scored_rows = with_features(accelerator, method.encoder, stream.scored_rows)
    return method


def learn(config: DictConfig, accelerator: Accelerator, method: Method, stream: TaskStream, number: int, log: Any = None) -> None:
    """Let the method learn one task, and make sure that the ranks agree afterwards."""
    set_seed(derive_seed(config.seed, number) % 2**32)  # heads grow alike on every rank
    with session(Session(config.seed, number, len(stream), config.progress, log or (lambda values: None))):
        method.learn(stream[number])
    if accelerator.num_processes > 1 and len(set(gather_object([state_digest(method.state_dict())]))) != 1:
        raise RuntimeError(f"the ranks hold different weights after task {number + 1}")


def evaluate(accelerator: Accelerator, method: Method, stream: TaskStream, number: int, config: DictConfig) -> pd.DataFrame:
    """Score the test rows of tasks 0..number, in one shuffled pool. -> a row each: index, label, task, prediction, …"""
    rows = stream.seen(number)
    classes = stream.classes(number).stop
    task_of_class = stream.task_of(torch.arange(classes))

    def score(batch: Batch) -> tuple[Any, ...]:
        prediction = method.predict(batch.inputs)
        scores = prediction.scores.float()
        if scores.shape != (len(batch.labels), classes) or not bool(torch.isfinite(scores).all()):
            raise RuntimeError(f"{type(method).__name__}.predict gave scores {tuple(scores.shape)}, or values that are not finite")
        inside = task_of_class.to(scores.device) == task_of_class.to(scores.device)[batch.labels.to(scores.device)][:, None]
        best = scores.max(1)
        within = scores.masked_fill(~inside, -torch.inf).argmax(1)
        answers = prediction.answers or [""] * len(scores)
        invalid = prediction.invalid if prediction.invalid is not None else torch.full((len(scores),), -1)
        head = prediction.head_scores
        head = head.argmax(1) if head is not None else torch.full((len(scores),), -1)
        return best.indices, within, best.values, invalid.int(), head, list(answers)

    predicted, within, value, invalid, head, answers = embed(
        accelerator, score, rows, config.eval_batch_size, "evaluating" if config.progress else None
    )
    columns = {
        "after_task": np.full(len(rows), number),
        "index": rows.index.numpy(),
        "label": rows.labels.numpy(),
        "task": stream.task_of(rows.labels, rows.index).numpy(),
        "prediction": predicted.numpy(),
        "task_il_prediction": within.numpy(),
        "score": value.numpy(),
        "invalid": invalid.numpy(),
        "head_prediction": head.numpy(),  # -1 where the method has no second classifier
        "answer": answers,
    }
    frame = pd.DataFrame(columns)
    if frame["index"].duplicated().any():
        raise RuntimeError("a test row was scored twice")
    return frame.sort_values("index", ignore_index=True)


def tally(scored: pd.DataFrame, stream: TaskStream, number: int) -> dict[str, Any]:
    """-> right answers by task (class-IL, task-IL, the head's own) and the number of invalid answers; None if the method has none"""
    guesses = {"correct": scored.prediction, "task_il": scored.task_il_prediction, "head": scored.head_prediction}
    right = scored.assign(**{name: guess == scored.label for name, guess in guesses.items()})
    by_task = right.groupby("task")[list(guesses)].sum().reindex(range(number + 1), fill_value=0)
    return {
        "correct": by_task.correct.astype(int).tolist(),
        "task_il_correct": by_task.task_il.astype(int).tolist(),
        "invalid": None if (scored.invalid < 0).any() else int(scored.invalid.sum()),
        "head_correct": None if (scored.head_prediction < 0).any() else by_task["head"].astype(int).tolist(),
    }


def say(accelerator: Accelerator, text: str) -> None:
    if accelerator.is_main_process:
        print(text, file=sys.stderr, flush=True)


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic(folder / ".writable") as work:
            work.touch()
        (folder / ".writable").unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"results folder {folder} cannot be written ({error.strerror}): choose another with results=DIR") from None


def _within_budget(method: Method) -> list[Stored]:
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
        "by_kind": {one.kind: {"items": one.items, "bytes": one.bytes} for one in kept},
        "per_task": per_task,
    }


def state_digest(state: Any) -> str:
    """-> sha256 over a nest of dicts, lists, tensors and plain values"""
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, Tensor):
            digest.update(
                repr((tuple(value.shape), value.dtype)).encode()
                + value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
            )
        elif isinstance(value, Rows):
            add([value.index, value.labels])
        elif isinstance(value, dict):
            for key in value:
                digest.update(repr(key).encode())
                add(value[key])
        elif isinstance(value, (list, tuple)):
            for one in value:
                add(one)
        else:
            digest.update(repr(value).encode())

    add(state)
    return digest.hexdigest()


def _peak_memory(accelerator: Accelerator) -> int:
    if accelerator.device.type == "cuda":
        return torch.cuda.max_memory_allocated(accelerator.device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
