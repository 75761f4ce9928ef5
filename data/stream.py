"""The task-stream protocol: a data set cut into tasks, with a key and a hash that say all that can change a number.

Shapes: B batch, N rows, T tasks.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.config import StreamConfig
from data.errors import InputError
from data.source import Source, Split


class Batch(NamedTuple):
    inputs: Tensor  # [B, 3, H, W] uint8 images, or [B, L, D] features of the method's frozen encoder
    labels: Tensor  # [B] int64, class ids numbered in order of arrival
    index: Tensor  # [B] int64, row in the data set's split: lets evaluation prove that each row was scored once


class Rows(Dataset):
    """Some rows of a store. `rows[3]` is one item, `rows[[3, 1]]` a batch, both as `Batch`.

    store: anything that a LongTensor [B] indexes to a tensor [B, ...]: a tensor, decoded files, cached features
    index: [N] int64 rows of the store; labels: [N] int64 class ids in order of arrival
    """

    def __init__(self, store: Any, index: Tensor, labels: Tensor):
        self.store, self.index, self.labels = store, index, labels

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, at: int | Sequence[int] | Tensor) -> Batch:
        one = isinstance(at, int)
        where = torch.as_tensor([at] if one else at, dtype=torch.int64)
        batch = Batch(self.store[self.index[where]], self.labels[where], self.index[where])
        return Batch(*(column[0] for column in batch)) if one else batch

    def at(self, positions: Tensor) -> "Rows":
        """-> the rows at these positions (int64 [M]), in that order, from the same store"""
        return Rows(self.store, self.index[positions], self.labels[positions])

    def of_class(self, label: int) -> "Rows":
        return self.at(torch.nonzero(self.labels == label).flatten())

    def __add__(self, other: "Rows") -> "Rows":
        if other.store is not self.store:
            raise ValueError("rows of two different stores cannot be joined")
        return Rows(self.store, torch.cat([self.index, other.index]), torch.cat([self.labels, other.labels]))

    def on(self, store: Any) -> "Rows":
        """-> the same rows, read from another store with the same numbering (cached features, say)"""
        return Rows(store, self.index, self.labels)

    def item_bytes(self) -> int:
        """-> bytes of one image as the source holds it, which is what keeping it costs (features can be made from it again)"""
        one = getattr(self.store, "images", self.store)[self.index[:1]]
        return one.numel() * one.element_size()


@dataclass(frozen=True)
class Task:
    """All that a method may see of a task."""

    index: int
    classes: range  # ids that arrive now, e.g. range(20, 40)
    class_names: tuple[str, ...]  # words, one for each of `classes`
    train: Rows  # undecorated: augmentation belongs to fit()
    mirrors: bool = True  # a mirrored image keeps its class, so that training may flip


class TaskStream:
    """Tasks in order. `stream[i]` is the i-th Task, `stream.seen(i)` the scored rows of tasks 0..i, shuffled."""

    def __init__(self, source: Source, config: StreamConfig):
        count = len(source.class_names)
        self.order = class_order(config.order, count)
        self.sizes = task_sizes(count, config.base, config.increment)
        self.class_names = tuple(source.class_names[label] for label in self.order)
        self.scenario = "class"
        self.source, self.mirrors = source.name, source.mirrors
        self.limited = config.limit is not None
        train, test = _numbered(source.train, self.order), _numbered(source.test, self.order)
        if config.validation:
            train, test = _carve(train, config.validation)
        if config.limit is not None:
            train, test = _head(train, config.limit), _head(test, config.limit)
        self.train_rows, self.scored_rows = train, test
        for label, name in enumerate(self.class_names):
            for split, rows in (("training", train), ("test", test)):
                if not bool((rows.labels == label).any()):
                    raise InputError(f"class '{name}' of stream '{source.name}' has no {split} images: remove the class or add images")
        self.key = _key(source, config)
        self.sha256 = _digest(self)

    def __len__(self) -> int:
        return len(self.sizes)

    def classes(self, task: int) -> range:
        first = sum(self.sizes[:task])
        return range(first, first + self.sizes[task])

    def __getitem__(self, task: int) -> Task:
        if not 0 <= task < len(self):
            raise IndexError(task)
        classes = self.classes(task)
        return Task(task, classes, self.class_names[classes.start : classes.stop], self._among(self.train_rows, classes), self.mirrors)

    def test(self, task: int) -> Rows:
        """-> the scored rows of one task (the test split, or the carved validation rows)"""
        return self._among(self.scored_rows, self.classes(task))

    def seen(self, task: int) -> Rows:
        """-> the scored rows of tasks 0..task in a fixed shuffled order, so that neither order nor batches tell the task"""
        rows = self._among(self.scored_rows, range(self.classes(task).stop))
        return rows.at(torch.randperm(len(rows), generator=torch.Generator().manual_seed(len(rows))))

    def task_of(self, labels: Tensor) -> Tensor:
        """labels: int64 [N] -> int64 [N], the task in which each class arrived"""
        ends = torch.tensor(np.cumsum(self.sizes))
        return torch.searchsorted(ends, labels, right=True)

    @staticmethod
    def _among(rows: Rows, classes: range) -> Rows:
        return rows.at(torch.nonzero((rows.labels >= classes.start) & (rows.labels < classes.stop)).flatten())


def class_order(order: Any, count: int) -> tuple[int, ...]:
    """-> the source's label seen at each position. An integer is numpy's legacy seed: 1993 gives the order of PyCIL and LUCIR."""
    if order == "natural":
        return tuple(range(count))
    if isinstance(order, int):
        return tuple(np.random.RandomState(order).permutation(count).tolist())
    if isinstance(order, Sequence) and not isinstance(order, str):
        if sorted(order) != list(range(count)):
            raise InputError(f"stream.order is no permutation of the {count} classes: list each id from 0 to {count - 1} once")
        return tuple(order)
    raise InputError(f"unknown stream.order '{order}': use natural, an integer seed or a list of class ids")


def task_sizes(count: int, base: int, increment: int) -> tuple[int, ...]:
    """-> classes in each task: `base` first (0 = `increment`), then `increment` each, which must use up the classes"""
    base = base or increment
    if increment < 1 or base < 1:
        raise InputError(f"stream.base={base} and stream.increment={increment} must be at least 1")
    if base > count:
        raise InputError(f"stream.base={base} is more than the {count} classes of the stream: choose a smaller base")
    if (count - base) % increment:
        raise InputError(
            f"stream.increment={increment} does not divide the {count - base} classes after the base: choose another increment"
        )
    return (base,) + (increment,) * ((count - base) // increment)


def _numbered(split: Split, order: Sequence[int]) -> Rows:
    """-> all rows of a split, labels renumbered by arrival: y' = argsort(order)[y]"""
    arrival = np.argsort(np.asarray(order))
    return Rows(split.images, torch.arange(len(split.labels)), torch.from_numpy(arrival[split.labels]))


def _carve(rows: Rows, share: float) -> tuple[Rows, Rows]:
    """-> the rows that stay and the validation rows: of each class the first `share` of a fixed shuffle"""
    if not 0 < share < 1:
        raise InputError(f"stream.validation={share} must lie between 0 and 1")
    shuffled = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    rank = _rank_in_class(rows.labels[shuffled])
    counts = torch.bincount(rows.labels)[rows.labels[shuffled]]
    held = torch.empty(len(rows), dtype=torch.bool)
    held[shuffled] = rank < (share * counts).ceil()
    return rows.at(torch.nonzero(~held).flatten()), rows.at(torch.nonzero(held).flatten())


def _head(rows: Rows, limit: int) -> Rows:
    return rows.at(torch.nonzero(_rank_in_class(rows.labels) < limit).flatten())


def _rank_in_class(labels: Tensor) -> Tensor:
    """labels [N] -> for each row, how many earlier rows have its label"""
    order = torch.argsort(labels, stable=True)
    counts = torch.bincount(labels)
    first = torch.cumsum(counts, 0) - counts
    rank = torch.empty_like(labels)
    rank[order] = torch.arange(len(labels)) - first[labels[order]]
    return rank


def _key(source: Source, config: StreamConfig) -> str:
    order = config.order
    if not isinstance(order, str):
        order = f"o{order}" if isinstance(order, int) else "o" + hashlib.sha256(repr(list(order)).encode()).hexdigest()[:8]
    parts = [source.name, f"b{config.base}", f"inc{config.increment}", order, f"v{source.version}"]
    parts += [f"val{config.validation:g}"] if config.validation else []
    parts += [f"limit{config.limit}"] if config.limit is not None else []
    return "-".join(parts)


def _digest(stream: TaskStream) -> str:
    """-> sha256 over the pixels, labels, split and order"""
    digest = hashlib.sha256(repr((stream.key, stream.order, stream.sizes, stream.class_names)).encode())
    for rows in (stream.train_rows, stream.scored_rows):
        digest.update(rows.index.numpy().tobytes() + rows.labels.numpy().tobytes() + store_digest(rows.store))
    return digest.hexdigest()


def store_digest(store: Any) -> bytes:
    """-> sha256 of a store's content: its own `digest()` where it has one (files), else its bytes"""
    if hasattr(store, "digest"):
        return store.digest()
    return hashlib.sha256(repr((tuple(store.shape), store.dtype)).encode() + store.numpy().tobytes()).digest()
