"""Scoring the test rows after a task, and keeping the scores until the record is written.

Shapes: b batch, C classes seen, N rows, T tasks.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from omegaconf import DictConfig

from bench.finite import check_scores
from bench.resume.saving import saving, sound
from data.caching.cache import atomic, file_sha256
from data.stream import Batch, TaskStream
from methods.base import Method
from methods.learning.training import embed

if TYPE_CHECKING:  # what takes long to import is imported when a task has been learnt
    import pandas as pd

NONE = -1  # in place of a class where a method rules out every one


def evaluate(accelerator: Accelerator, method: Method, stream: TaskStream, number: int, config: DictConfig) -> "pd.DataFrame":
    """Score the test rows of tasks 0..number, in one shuffled pool. -> a row each: index, label, task, prediction, …"""
    from pandas import DataFrame

    rows = stream.seen(number)
    classes = stream.classes(number).stop
    # The classes of a task are neighbours: for each class the first of its task [C], and the offsets of as many as the largest task has.
    sizes = torch.bincount(stream.task_of(torch.arange(classes)))
    last_of = (sizes.cumsum(0) - 1).repeat_interleave(sizes)
    first_of, offsets = last_of + 1 - sizes.repeat_interleave(sizes), torch.arange(int(sizes.max()))

    def score(batch: Batch) -> tuple[Any, ...]:
        prediction = method.predict(batch.inputs)
        scores = prediction.scores.float()
        if scores.shape != (len(batch.labels), classes):
            raise RuntimeError(f"{type(method).__name__}.predict gave scores {tuple(scores.shape)} for {(len(batch.labels), classes)}")
        best = scores.max(1)
        first, last = (of.to(scores.device)[batch.labels.to(scores.device)] for of in (first_of, last_of))  # [b], of the row's task
        inside = (first[:, None] + offsets.to(scores.device)).minimum(last[:, None])  # [b, classes of the largest task]
        told = scores.gather(1, inside).max(1)
        guess = best.indices.masked_fill(best.values.isneginf(), NONE)
        within = (first + told.indices).minimum(last).masked_fill(told.values.isneginf(), NONE)
        answers = prediction.answers or [""] * len(scores)
        invalid = prediction.invalid if prediction.invalid is not None else torch.full((len(scores),), -1)
        head = prediction.head_scores
        head = head.argmax(1) if head is not None else torch.full((len(scores),), -1)
        return guess, within, best.values.masked_fill(guess == NONE, 0.0), invalid.int(), head, list(answers)

    predicted, within, value, invalid, head, answers = embed(
        accelerator, score, rows, config.eval_batch_size, "evaluating" if config.progress else None
    )
    check_scores(value, method, number, config)
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
    frame = DataFrame(columns)
    if frame["index"].duplicated().any():
        raise RuntimeError("a test row was scored twice")
    return frame.sort_values("index", ignore_index=True)


def tally(scored: "pd.DataFrame", stream: TaskStream, number: int) -> dict[str, Any]:
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


class Scores:
    """Two files for each task that was scored: counts, times and bytes; and the predictions. No more than one task is in memory."""

    def __init__(self, accelerator: Accelerator, folder: Path):
        self.accelerator, self.folder = accelerator, folder

    def has(self, task: int) -> bool:
        """-> was this task scored in a former attempt, and are its files as they were written?"""
        path = self._path(task)
        (found,) = broadcast_object_list([path.exists() and sound(path, lambda: self._whole(task))])
        return found

    def write(self, task: int, predictions: "pd.DataFrame", values: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            with saving(self.folder):
                with atomic(self._path(task).with_suffix(".parquet")) as work:
                    predictions.to_parquet(work, index=False)
                values = {**values, "sha256": file_sha256(self._path(task).with_suffix(".parquet"))}
                with atomic(self._path(task)) as work:
                    work.write_text(json.dumps(values))
        self.accelerator.wait_for_everyone()

    def forget(self, first: int) -> None:
        """Remove the scores of the tasks from `first` on: a former attempt made them, from a checkpoint that is lost."""
        if self.accelerator.is_main_process:
            for path in self.folder.glob("task-????.*"):
                if int(path.stem[-4:]) >= first:
                    path.unlink()
        self.accelerator.wait_for_everyone()

    def read(self, task: int) -> dict[str, Any]:
        return json.loads(self._path(task).read_text(encoding="utf-8"))

    def join_predictions(self, tasks: int, path: Path) -> None:
        """Write the predictions of all tasks as one file, a task at a time."""
        import pyarrow.parquet as pq

        with saving(path.parent), atomic(path) as work:
            parts = [self._path(task).with_suffix(".parquet") for task in range(tasks)]
            with pq.ParquetWriter(work, pq.read_schema(parts[0])) as writer:
                for part in parts:
                    writer.write_table(pq.read_table(part))

    def _path(self, task: int) -> Path:
        return self.folder / f"task-{task:04d}.json"

    def _whole(self, task: int) -> bool:
        return self.read(task)["sha256"] == file_sha256(self._path(task).with_suffix(".parquet"))
