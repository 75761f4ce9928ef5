"""How classes (or domains) are ordered and dealt to tasks, and which rows are kept. Pure functions; nothing here reads an image.

Shapes: N rows.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.config import StreamConfig
from data.errors import InputError
from data.images.lists import listed_rows, read_lines


def class_order(order: Any, count: int) -> tuple[int, ...]:
    """-> the source's label (or domain) at each position.

    An integer is numpy's legacy seed: 1993 gives the order of PyCIL, LUCIR and FACIL. "icarl" is the order of iCaRL's release,
    also of PODNet, DyTox and DER: the same seed, used after the release has shuffled the 500 rows of each of its 100 classes.
    """
    if isinstance(order, str) and order == "natural":
        return tuple(range(count))
    if isinstance(order, str) and order == "icarl":
        if count != 100:
            raise InputError(f"stream.order=icarl is an order of 100 classes where the stream has {count}: use an integer seed")
        random = np.random.RandomState(1993)
        for _ in range(100):
            random.shuffle(np.arange(500))
        return tuple(random.permutation(100).tolist())
    if isinstance(order, int) and not isinstance(order, bool):
        if not 0 <= order < 2**32:
            raise InputError(f"stream.order={order} is no seed: use an integer from 0 to {2**32 - 1}")
        return tuple(np.random.RandomState(order).permutation(count).tolist())
    if isinstance(order, Sequence) and not isinstance(order, str):
        if len(order) != count or set(order) != set(range(count)) or not all(type(label) is int for label in order):
            raise InputError(f"stream.order is no permutation of the {count} classes or domains: list each id from 0 to {count - 1} once")
        return tuple(int(label) for label in order)
    raise InputError(f"unknown stream.order '{order}': use natural, an integer seed, icarl or a list of class ids")


def task_sizes(count: int, base: int, increment: Any) -> tuple[int, ...]:
    """-> classes (or domains) in each task: `base` first (0 = `increment`), then `increment` each, which must use up all of them.

    A list gives the size of each task after the base, or of all tasks where base is 0.
    """
    if isinstance(increment, Sequence) and not isinstance(increment, str):
        sizes = ((base,) if base else ()) + tuple(increment)
        if not all(type(size) is int and size >= 1 for size in sizes):
            raise InputError(f"stream.base={base} and stream.increment={list(increment)} must be whole numbers of at least 1")
        if sum(sizes) != count:
            raise InputError(
                f"stream.base and the list stream.increment add up to {sum(sizes)} where the stream has {count}: make them equal"
            )
        return sizes
    if isinstance(increment, bool) or not isinstance(increment, int):
        raise InputError(f"stream.increment={increment} must be a whole number or a list of them")
    first = base or increment
    if increment < 1 or first < 1:
        raise InputError(f"stream.base={base} and stream.increment={increment} must be at least 1")
    if first > count:
        option = f"stream.base={base}" if base else f"stream.increment={increment}"
        raise InputError(f"{option} is more than the {count} classes or domains of the stream: choose a smaller one")
    if (count - first) % increment:
        raise InputError(
            f"stream.increment={increment} does not divide the {count - first} classes or domains after the base: "
            "choose another or give a list"
        )
    return (first,) + (increment,) * ((count - first) // increment)


def first_tasks(sizes: tuple[int, ...], tasks: int | None) -> tuple[int, ...]:
    """-> the sizes of the first `tasks` tasks; null = of all"""
    if tasks is not None and not 1 <= tasks <= len(sizes):
        raise InputError(f"stream.tasks={tasks} must lie between 1 and the {len(sizes)} tasks of the stream")
    return sizes[:tasks]


def rank_in_group(groups: Tensor) -> Tensor:
    """int64 [N] -> for each row, how many earlier rows are of its group"""
    order = torch.argsort(groups, stable=True)
    counts = torch.bincount(groups)
    first = torch.cumsum(counts, 0) - counts
    rank = torch.empty_like(groups)
    rank[order] = torch.arange(len(groups)) - first[groups[order]]
    return rank


def shuffled_rank(groups: Tensor, seed: int) -> Tensor:
    """int64 [N] -> the place of each row in a seeded shuffle of its group, from 0"""
    shuffled = torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed))
    rank = torch.empty_like(groups)
    rank[shuffled] = rank_in_group(groups[shuffled])
    return rank


def held_out(groups: Tensor, share: float) -> Tensor:
    """-> bool [N]: of each group the first `share`, rounded up, of a fixed shuffle"""
    if not 0 < share < 1:
        raise InputError(f"stream.validation={share} must lie between 0 and 1")
    counts = torch.bincount(groups)[groups]
    return shuffled_rank(groups, 0) < (share * counts).ceil()


def stratified(labels: np.ndarray, share: float = 0.2, seed: int = 0) -> np.ndarray:
    """-> bool [N], test rows: of each class `share`, rounded half up but at least one row, of a shuffle with numpy's PCG64

    The shuffle is one permutation of all rows in the order given (by class and content: `data.source.divided`). Data sets without
    an official split are cut by this; changing it means raising the version of every source that uses it.
    """
    place = np.empty(len(labels), np.int64)
    shuffled = np.random.Generator(np.random.PCG64(seed)).permutation(len(labels))
    place[shuffled] = rank_in_group(torch.from_numpy(labels[shuffled])).numpy()
    counts = np.bincount(labels)
    wanted = np.maximum(np.floor(share * counts + 0.5), 1)
    return place < wanted[labels]


def few_shot(
    config: StreamConfig, labels: Tensor, tasks: Tensor, index: Tensor, names: Sequence[str] | None, official: np.ndarray | None
) -> Tensor:
    """-> bool [N], rows kept: all of the first task, `shots` a class of the others, from the user's list or drawn with `shot_seed`.

    labels, tasks, index: int64 [N], the class, the task and the row number in the source of each row; names: file names by row
    number; official: the number of each row in the published order, None where the data have none.
    """
    if config.shots is None or config.shots < 1:
        raise InputError(f"stream.shots={config.shots} must be at least 1")
    if int(tasks.max()) == 0:
        raise InputError("stream.shots needs more than one task: choose a smaller stream.base or stream.increment")
    if config.shot_list is None:
        kept = (tasks == 0) | (shuffled_rank(labels, config.shot_seed) < config.shots)
    else:
        listed = _listed_rows(Path(config.shot_list), int(tasks.max()) + 1, names, official)
        kept = (tasks == 0) | torch.isin(index, listed)
    counts = torch.bincount(labels[kept], minlength=int(labels.max()) + 1)
    for label in labels[tasks > 0].unique().tolist():
        if counts[label] != config.shots:
            remedy = "make them equal" if config.shot_list else "lower stream.shots, or add images"
            origin = f"stream.shot_list={config.shot_list} gives" if config.shot_list else "the training rows give"
            raise InputError(f"{origin} {counts[label]} rows of class {label} (by arrival) where stream.shots={config.shots}: {remedy}")
    return kept


def _listed_rows(path: Path, tasks: int, names: Sequence[str] | None, official: np.ndarray | None) -> Tensor:
    """-> int64 [M], the rows that a file, or the session_2.txt … of a folder, lists by official number or by the end of the file name"""
    files = [path / f"session_{task + 1}.txt" for task in range(1, tasks)] if path.is_dir() else [path]
    for file in files:
        if not file.is_file():
            raise InputError(f"stream.shot_list: {file} cannot be read: name a file, or a folder of session_N.txt")
    lines = [line for file in files for line in read_lines(file)]
    if not all(line.isdigit() for line in lines):
        return torch.tensor(listed_rows(path, lines, names or (), "training image"), dtype=torch.int64)
    if official is None:
        raise InputError(
            "stream.shot_list numbers rows, and the data as they lie here have no published order of rows: list file names, "
            "or use the published files"
        )
    row_of, numbers = {number: row for row, number in enumerate(official.tolist())}, [int(line) for line in lines]
    for number in numbers:
        if number not in row_of:
            raise InputError(f"stream.shot_list names row {number}, which is none of the training rows: use the list of this data set")
    return torch.tensor([row_of[number] for number in numbers], dtype=torch.int64)


def short_hash(value: Any) -> str:
    """-> 8 hex digits that stand for a list in a stream's key"""
    return hashlib.sha256(repr(value).encode()).hexdigest()[:8]
