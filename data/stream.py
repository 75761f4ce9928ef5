"""The task-stream protocol: a data set cut into tasks, with a key and a hash that say all that can change a number.

`identity(config)` gives the two without decoding anything; the hash alone is the same from any packaging of the same data.

Shapes: B batch, N rows, T tasks.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.config import StreamConfig
from data.errors import InputError, one_of
from data.images.content import sorted_digest
from data.source import Source, Split, load
from data.split import class_order, few_shot, first_tasks, held_out, rank_in_group, short_hash, task_sizes


class Batch(NamedTuple):
    inputs: Tensor  # [B, 3, H, W] uint8 images, or [B, L, D] features of the method's frozen encoder
    labels: Tensor  # [B] int64, class ids numbered in order of arrival
    index: Tensor  # [B] int64, row in the split's canonical order (class, content): lets evaluation prove that each was scored once


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
        index, labels = self.index.index_select(0, where), self.labels.index_select(0, where)
        # index_select copies whole rows; indexing with [] would go pixel by pixel
        inputs = self.store.index_select(0, index) if isinstance(self.store, Tensor) else self.store[index]
        batch = Batch(inputs, labels, index)
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

    @property
    def workers(self) -> int:
        """-> processes that should read batches ahead: none where the store is a table, some where it decodes files"""
        return getattr(self.store, "workers", 0)

    @property
    def encode(self) -> Callable[[Tensor], Tensor] | None:
        """-> what makes features of the images that the store gives, on the device; None where it gives what is to be fed"""
        return getattr(self.store, "encode", None)

    def item_bytes(self) -> int:
        """-> bytes of one image as the source holds it, which is what keeping it costs (features can be made from it again)"""
        one = getattr(self.store, "images", self.store)[self.index[:1]]
        return one.numel() * one.element_size()


@dataclass(frozen=True)
class Task:
    """All that a method may see of a task."""

    index: int
    classes: range  # ids that arrive now, e.g. range(20, 40); in domain-incremental streams the same ids each time
    class_names: tuple[str, ...]  # words, one for each of `classes`
    train: Rows  # undecorated: augmentation belongs to fit()
    mirrors: bool = True  # a mirrored image keeps its class, so that training may flip


class TaskStream:
    """Tasks in order. `stream[i]` is the i-th Task, `stream.seen(i)` the scored rows of tasks 0..i, shuffled."""

    def __init__(self, source: Source, config: StreamConfig):
        self.scenario = _scenario(source, config)
        names = source.domain_names if self.scenario == "domain" else source.class_names
        order = class_order(config.order, len(names))  # the source's class (or domain) at each position
        sizes = task_sizes(len(names), config.base, config.increment)
        self.sizes = first_tasks(sizes, config.tasks)  # classes (or domains) in each task
        self.order = order[: sum(self.sizes)]
        self.arrivals = tuple(names[label] for label in self.order)
        self.class_names = source.class_names if self.scenario == "domain" else self.arrivals
        self.source, self.mirrors, self.intake = source.name, source.mirrors, source.intake
        self.limited = config.limit is not None or config.tasks is not None or bool(config.validation)
        train, self._train_tasks = self._numbered(source.train, order, sizes)
        self._train_content = self._scored_content = source.train.digests()
        test, self._scored_tasks = self._numbered(source.test, order, sizes)
        if config.validation:
            held = held_out(self._groups(train, self._train_tasks), config.validation)
            train, test, self._scored_tasks = train.at(_where(~held)), train.at(_where(held)), self._train_tasks
        else:
            self._scored_content = source.test.digests()
        if config.shots is not None:
            train = self._few(train, config, source.train.official)
        if config.limit is not None:
            train = train.at(_where(rank_in_group(self._groups(train, self._train_tasks)) < config.limit))
            test = test.at(_where(rank_in_group(self._groups(test, self._scored_tasks)) < config.limit))
        self.train_rows = train.at(_where(self._train_tasks[train.index] < len(self)))
        self.scored_rows = test.at(_where(self._scored_tasks[test.index] < len(self)))
        self._ends = [0, *np.cumsum(self.sizes).tolist()]
        self._train_rows_of, self._scored_rows_of = (
            _by_task(tasks[rows.index], len(self))
            for rows, tasks in ((self.train_rows, self._train_tasks), (self.scored_rows, self._scored_tasks))
        )
        self._check()
        listed = sorted_digest(self._train_content[train.index.numpy()], train.labels.numpy()) if config.shot_list else b""
        self.key = _key(source, config, listed)
        self.sha256 = _digest(self, config)

    def __len__(self) -> int:
        return len(self.sizes)

    def classes(self, task: int) -> range:
        if self.scenario == "domain":
            return range(len(self.class_names))
        return range(self._ends[task], self._ends[task + 1])

    def __getitem__(self, task: int) -> Task:
        if not 0 <= task < len(self):
            raise IndexError(task)
        classes = self.classes(task)
        rows = self.train_rows.at(self._train_rows_of[task])
        return Task(task, classes, self.class_names[classes.start : classes.stop], rows, self.mirrors)

    def test(self, task: int) -> Rows:
        """-> the scored rows of one task (the test split, or the carved validation rows)

        Domain-incremental test rows that belong to no training domain are one pool, scored after every task: all are of task 0.
        """
        return self.scored_rows.at(self._scored_rows_of[task])

    def test_sizes(self) -> list[int]:
        """-> the number of scored rows of each task [T]"""
        return [len(rows) for rows in self._scored_rows_of]

    def seen(self, task: int) -> Rows:
        """-> the scored rows of tasks 0..task in a fixed shuffled order, so that neither order nor batches tell the task"""
        rows = self.scored_rows.at(torch.cat(self._scored_rows_of[: task + 1]).sort().values)
        return rows.at(torch.randperm(len(rows), generator=torch.Generator().manual_seed(len(rows))))

    def task_of(self, labels: Tensor, index: Tensor | None = None) -> Tensor:
        """labels: int64 [N] -> int64 [N], the task in which each class arrived

        Where `index` gives the rows [N] of the scored split, the task of each row: its domain's, in a domain-incremental stream.
        """
        if self.scenario == "domain":
            return torch.zeros_like(labels) if index is None else self._scored_tasks[index]
        return torch.searchsorted(torch.tensor(np.cumsum(self.sizes)), labels, right=True)

    def _numbered(self, split: Split, order: Sequence[int], sizes: Sequence[int]) -> tuple[Rows, Tensor]:
        """-> all rows of a split, labels renumbered by arrival (y' = argsort(order)[y]), and the task of each row of its store"""
        arrival = np.argsort(np.asarray(order))
        ends = np.cumsum(sizes)
        labels, units = split.labels, split.domains if self.scenario == "domain" else split.labels
        if self.scenario == "class":
            labels = arrival[labels]
        tasks = np.zeros_like(labels) if units is None else np.searchsorted(ends, arrival[units], side="right")
        rows = Rows(split.images, torch.arange(len(labels)), torch.from_numpy(labels))
        return rows, torch.from_numpy(np.asarray(tasks, dtype=np.int64))

    def _groups(self, rows: Rows, tasks: Tensor) -> Tensor:
        """-> int64 [N], one number for each class of each task"""
        return rows.labels * (int(tasks.max()) + 1) + tasks[rows.index]

    def _few(self, train: Rows, config: StreamConfig, official: np.ndarray | None) -> Rows:
        if self.scenario == "domain":
            raise InputError("stream.shots needs stream.scenario=class: leave it out")
        if config.shot_list and config.validation:
            raise InputError("stream.shot_list and stream.validation cannot be combined: leave one out")
        names = getattr(train.store, "names", None)
        return train.at(_where(few_shot(config, train.labels, self._train_tasks[train.index], train.index, names, official)))

    def _check(self) -> None:
        """Every class, and in domain-incremental streams every task, must have rows of both splits."""
        for title, rows, tasks in (("training", self.train_rows, self._train_tasks), ("scored", self.scored_rows, self._scored_tasks)):
            counts = torch.bincount(rows.labels, minlength=len(self.class_names))
            if not bool(counts.all()):
                name = self.class_names[int(counts.argmin())]
                raise InputError(
                    f"class '{name}' of stream '{self.source}' is left without {title} rows: lower stream.validation, or, where the class "
                    "has one training image, leave it out or add images"
                )
            by_task = torch.bincount(tasks[rows.index], minlength=len(self))
            pooled = title == "scored" and int(tasks.max()) == 0
            if not bool(by_task.all()) and not pooled:
                raise InputError(
                    f"task {int(by_task.argmin()) + 1} of stream '{self.source}' has no {title} rows: add images or merge tasks"
                )


def _where(mask: Tensor) -> Tensor:
    return torch.nonzero(mask).flatten()


def _by_task(tasks: Tensor, count: int) -> tuple[Tensor, ...]:
    """int64 [N], the task of each row -> for each task the positions of its rows, ascending: found once, as there may be many tasks"""
    return torch.argsort(tasks, stable=True).split(torch.bincount(tasks, minlength=count).tolist())


def _scenario(source: Source, config: StreamConfig) -> str:
    one_of("stream.scenario", str(config.scenario), ("class", "domain"))
    if config.scenario == "domain" and not source.domain_names:
        raise InputError(f"stream '{source.name}' has no domains: use stream.scenario=class")
    return config.scenario


def _key(source: Source, config: StreamConfig, listed: bytes) -> str:
    """-> the name that says all that can change a number, e.g. cifar100-b60-inc5-natural-v2-5shot; listed: digest of a user's few rows"""
    order, increment = config.order, config.increment
    if not isinstance(order, str):
        order = f"o{order}" if isinstance(order, int) else f"o{short_hash([int(label) for label in order])}"
    if not isinstance(increment, int):
        increment = ".".join(map(str, increment)) if len(increment) <= 8 else short_hash(list(increment))
    parts = [source.name] + ([config.scenario] if config.scenario != "class" else [])
    parts += [f"b{config.base}", f"inc{increment}", order, f"v{source.version}"]
    parts += [f"first{config.tasks}"] if config.tasks is not None else []
    parts += [source.variant] if source.variant else []
    parts += [f"{config.image_size}px"] if config.image_size is not None else []
    if config.shots is not None:
        draw = f"-list{listed.hex()[:8]}" if config.shot_list else f"-draw{config.shot_seed}" if config.shot_seed else ""
        parts.append(f"{config.shots}shot{draw}")
    parts += [f"val{config.validation:g}"] if config.validation else []
    parts += [f"limit{config.limit}"] if config.limit is not None else []
    return "-".join(parts)


def _digest(stream: TaskStream, config: StreamConfig) -> str:
    """-> sha256 over what the images are, their class, task and split, and how they are cut: the same from any packaging"""
    digest = hashlib.sha256(
        repr((stream.scenario, stream.sizes, stream.class_names, stream.arrivals, stream.mirrors, config.image_size)).encode()
    )
    for rows, tasks, content in (
        (stream.train_rows, stream._train_tasks, stream._train_content),
        (stream.scored_rows, stream._scored_tasks, stream._scored_content),
    ):
        digest.update(sorted_digest(content[rows.index.numpy()], rows.labels.numpy(), tasks[rows.index].numpy()))
    return digest.hexdigest()


def identity(config: StreamConfig) -> tuple[str, str]:
    """-> key and sha256 of the stream that a configuration means today: what a record of it must say of its stream

    Nothing is decoded; of files that were read before, only what the file system says is asked (a million cost seconds).
    Errors: InputError, as the run would raise it.
    """
    stream = TaskStream(load(config, decode=False), config)
    return stream.key, stream.sha256


def store_digest(store: Any) -> bytes:
    """-> sha256 of a store's content: its own `digest()` where it has one (files), else its bytes"""
    if hasattr(store, "digest"):
        return store.digest()
    return hashlib.sha256(repr((tuple(store.shape), store.dtype)).encode() + store.numpy().tobytes()).digest()
