"""A data set before it is cut into tasks, how one is loaded by name, and the checks that it is sound."""

import hashlib
import importlib
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from data.config import StreamConfig
from data.errors import InputError, one_of
from data.images.intake import Account
from data.images.intake import unreadable as without
from data.images.store import FileStore, decoded, decoded_bytes, unreadable
from data.sources import SOURCES


@dataclass(frozen=True)
class Split:
    """Rows of one split: `images[rows]` gives uint8 [B, 3, H, W]; `labels` is int64 [N], ids of the source."""

    images: Any
    labels: np.ndarray
    domains: np.ndarray | None = None  # int64 [N], ids of the domains; None on test rows that belong to no training domain


@dataclass(frozen=True)
class Source:
    """A data set before it is cut into tasks."""

    name: str
    version: int  # raised when its split or its labels change
    train: Split
    test: Split
    class_names: tuple[str, ...]  # words, by the source's label id
    domain_names: tuple[str, ...] = ()  # words, by the domain's id; none where the data have no domains
    variant: str = ""  # what the user changed of the split or the classes; part of the stream's key
    mirrors: bool = True  # a mirrored image keeps its class (not so for digits and letters)
    intake: Account | None = None  # what was read of the data set's files and what was not; None where there are no files to choose from


def load(config: StreamConfig, decode: bool = True) -> Source:
    """-> the data set that `config.source` names; its files decoded into the cache where they fit, or not read at all.

    Errors: InputError for an unknown name, missing data, or data that contradict themselves.
    """
    one_of("stream source", config.source, SOURCES)
    module, function = SOURCES[config.source].split(":")
    source = getattr(importlib.import_module(module), function)(config)
    check(source)
    if not decode:
        return source
    source = prepare(source, config)
    check(source)  # again: unreadable files may have been left out
    copies = duplicates(source)
    if copies and os.environ.get("RANK", "0") == "0":
        print(f"warning: {copies} test images of stream '{source.name}' are also training images", file=sys.stderr)
    return source


def prepare(source: Source, config: StreamConfig) -> Source:
    """-> the source with unreadable files left out where the user asked for it, and decoded into the cache where it fits"""
    if config.corrupt not in ("stop", "skip"):
        raise InputError(f"unknown stream.corrupt '{config.corrupt}': use stop or skip")
    if not isinstance(source.train.images, FileStore):
        return source
    if config.corrupt == "skip":
        train, test = _readable(source.train), _readable(source.test)
        skipped = len(source.train.labels) + len(source.test.labels) - len(train.labels) - len(test.labels)
        variant = "-".join(filter(None, (source.variant, f"skip{skipped}" if skipped else "")))
        lost = (sorted(set(one.images.names) - set(left.images.names)) for one, left in ((source.train, train), (source.test, test)))
        told = source.intake and without(source.intake, *lost)
        source = replace(source, train=train, test=test, variant=variant, intake=told)
    splits = (source.train, source.test)
    if sum(decoded_bytes(split.images) for split in splits) > config.cache_gib * 2**30:
        return source
    train, test = (replace(split, images=decoded(split.images)) for split in splits)
    return replace(source, train=train, test=test)


def _readable(split: Split) -> Split:
    bad = unreadable(split.images)
    if not bad:
        return split
    rows = np.setdiff1d(np.arange(len(split.labels)), bad)
    domains = None if split.domains is None else split.domains[rows]
    return Split(split.images.some(rows.tolist()), split.labels[rows], domains)


def check(source: Source) -> None:
    """Raise InputError, one sentence, for labels out of range, wrong class names, or a class without images."""
    count = len(source.class_names)
    twice = (
        sorted({name for name in source.class_names if source.class_names.count(name) > 1}) if len(set(source.class_names)) < count else []
    )
    if twice:
        raise InputError(f"stream '{source.name}' has two classes named '{twice[0]}': rename one")
    present = []
    for title, split in (("training", source.train), ("test", source.test)):
        if len(split.images) != len(split.labels):
            raise InputError(f"stream '{source.name}' has {len(split.images)} {title} images but {len(split.labels)} labels: load it again")
        wrong = (split.labels < 0) | (split.labels >= count)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise InputError(
                f"{title} row {row} of stream '{source.name}' has label {split.labels[row]} where the {count} classes "
                f"are 0..{count - 1}: correct the labels"
            )
        present.append(np.bincount(split.labels, minlength=count) > 0)
    train, test = present
    for label in np.flatnonzero(~(train & test)):
        has, lacks = (
            ("no images at all", "any")
            if not (train[label] or test[label])
            else (
                ("test images but no training images", "training images")
                if test[label]
                else ("training images but no test images", "test images")
            )
        )
        raise InputError(f"class '{source.class_names[label]}' of stream '{source.name}' has {has}: remove the class or add {lacks}")


MOST_FILES = 200_000  # beyond this many, looking for duplicates would take longer than the run's start should


def duplicates(source: Source) -> int:
    """-> test images whose bytes (pixels, or whole files) are also those of a training image; 0 for more than MOST_FILES files"""
    train, test = source.train.images, source.test.images
    if not hasattr(train, "names"):
        known = set(_row_hashes(train))
        return sum(one in known for one in _row_hashes(test))
    if len(train) + len(test) > MOST_FILES or not hasattr(getattr(train, "files", train), "file_size"):
        return 0
    train, test = getattr(train, "files", train), getattr(test, "files", test)
    sizes = set(map(train.file_size, range(len(train))))
    suspects = [row for row in range(len(test)) if test.file_size(row) in sizes]
    wanted = {test.file_size(row) for row in suspects}
    known = {_file_hash(train, row) for row in range(len(train)) if train.file_size(row) in wanted} if suspects else set()
    return sum(_file_hash(test, row) in known for row in suspects)


def _row_hashes(images: Any) -> Iterable[int]:
    return (hash(row.tobytes()) for row in images.numpy())


def _file_hash(files: Any, row: int) -> bytes:
    return hashlib.sha256(files.read(row)).digest()
