"""A data set before it is cut into tasks: loaded by name, its rows brought into one order, told from others by what it holds.

Shapes: N rows.
"""

import hashlib
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from data.config import CUTTING, MACHINE, StreamConfig
from data.errors import InputError, one_of
from data.images.content import canonical_order, contents, copies, sorted_digest
from data.images.indexed import stored
from data.images.intake import Account
from data.images.intake import unreadable as without
from data.images.store import FileStore, PixelStore, decoded, decoded_bytes, unreadable
from data.options import Asked, check_asked
from data.sources import SOURCES
from data.sources.published import PUBLISHED
from data.split import stratified


@dataclass(frozen=True)
class Split:
    """Rows of one split: `images[rows]` gives uint8 [B, 3, H, W]; `labels` is int64 [N], ids of the source."""

    images: Any
    labels: np.ndarray
    domains: np.ndarray | None = None  # int64 [N], ids of the domains; None on test rows that belong to no training domain
    official: np.ndarray | None = None  # int64 [N], the number of each row in the published order; None where there is no such order
    content: np.ndarray | None = None  # uint8 [N, 16], what each image is (`data.images.content`); None before `load` has asked

    def digests(self) -> np.ndarray:
        """-> uint8 [N, 16], what each image is"""
        return contents(self.images) if self.content is None else self.content

    def some(self, rows: np.ndarray) -> "Split":
        """-> these rows only, in this order"""
        images = self.images[rows] if isinstance(self.images, Tensor) else self.images.some(rows.tolist())
        others = (None if one is None else one[rows] for one in (self.domains, self.official, self.content))
        return Split(images, self.labels[rows], *others)


@dataclass(frozen=True)
class Source:
    """A data set before it is cut into tasks."""

    name: str
    version: int  # raised when its split, its labels or the order of its rows change
    train: Split
    test: Split
    class_names: tuple[str, ...]  # words, by the source's label id
    domain_names: tuple[str, ...] = ()  # words, by the domain's id; none where the data have no domains
    variant: str = ""  # in what the data differ from the published set: what the user chose, or what was found; part of the stream's key
    mirrors: bool = True  # a mirrored image keeps its class (not so for digits and letters)
    intake: Account | None = None  # what was read of the data set's files and what was not; None where there are no files to choose from
    note: str = ""  # a sentence for the user on `variant`


def load(config: StreamConfig, decode: bool = True) -> Source:
    """-> the data set that `config.source` names; its files decoded into the cache where they fit, or not decoded at all.

    Rows stand by class and, within it, by what the image is, whatever the packaging: draws, batches and exemplars follow from the
    content alone. A data set that is not the published one of its name says so in `variant` or `name`, and so in the stream's key.
    Errors: InputError for an unknown name, missing data, data that contradict themselves, or an option without effect.
    """
    one_of("stream source", config.source, SOURCES)
    module, function = SOURCES[config.source].split(":")
    asked = Asked(config)
    source = _stored(getattr(importlib.import_module(module), function)(asked))
    check(source)
    _check_options(source, config)
    source = told_apart(canonical(_readable(source, asked)))
    check(source)  # again: unreadable files may have been left out
    if config.image_size is not None:
        source = _each_split(source, lambda split: _sized(split, asked))
    check_asked("stream.", asked, f"stream source {config.source}", (*CUTTING, *MACHINE))
    if not decode:
        return source
    tell(source)
    return _in_cache(source, config)


def tell(source: Source) -> None:
    """Say once, on standard error, what the user should know of the data."""
    if os.environ.get("RANK", "0") == "0":
        for line in remarks(source):
            print(f"warning: {line}", file=sys.stderr)


def canonical(source: Source) -> Source:
    """-> the rows of both splits by class and content (and domain, where one image is in several)"""

    def ordered(split: Split) -> Split:
        split = replace(split, content=split.digests())
        domains = np.zeros_like(split.labels) if split.domains is None else split.domains
        first = np.argsort(domains, kind="stable")  # what follows is stable, too
        return split.some(first[canonical_order(split.content[first], split.labels[first])])

    return _each_split(source, ordered)


def fingerprint(source: Source) -> str:
    """-> sha256 over the data: each image's content with the words of its class and domain, by split, in whatever order they are"""
    digest = hashlib.sha256(repr((sorted(source.class_names), sorted(source.domain_names))).encode())
    for split in (source.train, source.test):
        columns = [_ranks(source.class_names)[split.labels]]
        columns += [_ranks(source.domain_names)[split.domains]] if split.domains is not None else []
        digest.update(sorted_digest(split.digests(), *columns))
    return digest.hexdigest()


def _ranks(names: Sequence[str]) -> np.ndarray:
    """-> int64 [len(names)], the place of each in alphabetical order"""
    return np.argsort(np.argsort(np.array(names))).astype(np.int64)


def told_apart(source: Source) -> Source:
    """-> the source with 8 digits of its content in its name, or in its variant where it is not the published set of its name"""
    digits, known = fingerprint(source), PUBLISHED.get(source.name)
    short = digits[:8]
    if known is None:
        return replace(source, name=f"{source.name}_{short}")
    chosen, _, left_out = source.variant.partition("-")
    if chosen and not chosen.startswith("skip"):
        return replace(source, variant="-".join(filter(None, (f"{chosen}{short}", left_out))))
    difference = known.difference(len(source.class_names), len(source.train.labels), len(source.test.labels), digits)
    if difference is None:
        return source
    variant = f"{difference[0]}{short}"
    note = f"stream '{source.name}' {difference[1]}: its key says {variant}"
    return replace(source, variant="-".join(filter(None, (variant, source.variant))), note=note)


def divided(whole: Split, held: np.ndarray | None = None) -> tuple[Split, Split]:
    """Rows without an official split -> training and test rows: the test rows that `held` bool [N] marks, else the seeded fifth

    A fifth of each class, and of each domain of it, by `data.split.stratified` over the rows in canonical order.
    """
    if held is None:
        groups = whole.labels
        if whole.domains is not None:
            groups = np.unique(np.stack([whole.labels, whole.domains], 1), axis=0, return_inverse=True)[1].reshape(-1)
        order = canonical_order(whole.digests(), groups)
        held = np.zeros(len(groups), dtype=bool)
        held[order] = stratified(groups[order])
    return whole.some(np.flatnonzero(~held)), whole.some(np.flatnonzero(held))


def _stored(source: Source) -> Source:
    """-> the source, whose images are known to be some. Errors: InputError"""
    pairs = (("training", source.train), ("test", source.test))
    train, test = (replace(split, images=stored(split.images, f"the {title} images of '{source.name}'")) for title, split in pairs)
    return replace(source, train=train, test=test)


def _each_split(source: Source, change: Callable[[Split], Split]) -> Source:
    return replace(source, train=change(source.train), test=change(source.test))


def _readable(source: Source, config: StreamConfig) -> Source:
    """-> the source with unreadable files left out where the user asked for it"""
    if not isinstance(source.train.images, FileStore):
        return source
    if config.corrupt not in ("stop", "skip"):
        raise InputError(f"unknown stream.corrupt '{config.corrupt}': use stop or skip")
    if config.corrupt == "stop":
        return source

    def kept(split: Split) -> Split:
        bad = unreadable(split.images)
        return split.some(np.setdiff1d(np.arange(len(split.labels)), bad)) if bad else split

    left = _each_split(source, kept)
    pairs = ((source.train, left.train), (source.test, left.test))
    lost = [sorted(set(before.images.names) - set(after.images.names)) for before, after in pairs]
    if not any(lost):
        return source
    variant = "-".join(filter(None, (source.variant, f"skip{sum(map(len, lost))}")))
    return replace(left, variant=variant, intake=source.intake and without(source.intake, *lost))


def _sized(split: Split, config: StreamConfig) -> Split:
    """-> the rows of a table of pixels at the size that the user asked for; files know it themselves"""
    if not isinstance(split.images, Tensor) or split.images.shape[2:] == (config.image_size, config.image_size):
        return split
    store = PixelStore(split.images, config.image_size, config.workers)
    store._content = split.content
    return replace(split, images=store)


def _in_cache(source: Source, config: StreamConfig) -> Source:
    splits = (source.train, source.test)
    if not all(isinstance(split.images, FileStore) for split in splits):
        return source
    if sum(decoded_bytes(split.images) for split in splits) > config.cache_gib * 2**30:
        return source
    return _each_split(source, lambda split: replace(split, images=decoded(split.images)))


def _check_options(source: Source, config: StreamConfig) -> None:
    """Errors: InputError for an option that would be in the run's identity and do nothing."""
    if config.test_list is not None and "list" not in source.variant.split("-"):
        raise InputError(f"stream.test_list has no effect on stream '{source.name}', which has a split of its own: leave it out")
    if config.shots is None and config.shot_list is not None:
        raise InputError("stream.shot_list has no effect without stream.shots: set stream.shots, or leave the list out")
    if config.shot_seed and (config.shots is None or config.shot_list is not None):
        raise InputError("stream.shot_seed has no effect without a draw of stream.shots rows a class: leave it out")


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


def remarks(source: Source) -> list[str]:
    """-> what the user should know of the data, a sentence each: how they differ from the published set, images in both splits"""
    train, test = source.train, source.test
    both = copies(test.digests(), train.digests())
    own = {(train.labels[row], train.digests()[row].tobytes()) for row in copies(train.digests(), test.digests())}
    other = sum((test.labels[row], test.digests()[row].tobytes()) not in own for row in both)
    lines = [source.note] if source.note else []
    if len(both):
        under = f", {other} of them under another class" if other else ""
        lines.append(f"{len(both)} test images of stream '{source.name}' are also training images{under}")
    return lines
