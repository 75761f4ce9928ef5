"""What a method with a frozen encoder is fed: features from a table on disk where it fits, else computed with each batch.

Both give the same rows in the same order, and features that differ by float rounding alone.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator

from data.caching.cache import cache_dir
from data.caching.entries import limit, use
from data.errors import InputError, one_of
from data.stream import Rows
from methods.networks.backbones import FrozenEncoder
from methods.networks.feature_table import Table, make, opened, table_of
from methods.networks.live import LiveStore

WAYS = ("auto", "cache", "live")
SHARE = 0.5  # of CILBENCH_CACHE_GIB that the tables of one run may take by themselves


@dataclass(frozen=True)
class Choice:
    """How the rows of one split are fed, and why."""

    table: Table
    way: str  # cache | live
    why: str


def choose(encoder: FrozenEncoder, splits: Sequence[Rows], asked: str, views: bool = False) -> list[Choice]:
    """-> how each split is fed where `asked` for auto, cache or live. Under auto the smallest tables come first.

    views: the first split trains, on crops that are new each epoch. Errors: InputError where a table was asked for nevertheless
    """
    one_of("features", asked, WAYS)
    if views and asked == "cache":
        raise InputError(
            "features=cache holds one view of each image where method.crop draws new ones: set features=auto or method.crop=null"
        )
    folder = cache_dir("features")
    tables = [table_of(encoder, rows, folder) for rows in splits]
    if asked != "auto":
        return [Choice(table, asked, f"features={asked} says so") for table in tables]
    room, free = SHARE * limit(), float(shutil.disk_usage(folder).free)
    found: dict[int, Choice] = {}
    for number in sorted(range(len(tables)), key=lambda one: tables[one].bytes):
        table = tables[number]
        if views and number == 0:
            found[number] = Choice(table, "live", "method.crop draws new views each epoch")
        elif use(table.path):
            found[number] = Choice(table, "cache", "it is there already")
        elif table.bytes > room:
            found[number] = Choice(table, "live", f"it is more than {SHARE:.0%} of CILBENCH_CACHE_GIB leave")
        elif table.bytes > free:
            found[number] = Choice(table, "live", "the disk has no room for it")
        else:
            found[number] = Choice(table, "cache", f"it is within {SHARE:.0%} of CILBENCH_CACHE_GIB")
        if found[number].way == "cache":
            room -= table.bytes
            free -= 0 if found[number].why == "it is there already" else table.bytes
    return [found[number] for number in range(len(tables))]


def with_features(
    accelerator: Accelerator,
    encoder: FrozenEncoder,
    splits: Sequence[Rows],
    asked: str = "cache",
    progress: bool = True,
    views: bool = False,
) -> list[Rows]:
    """-> the same rows of each split, read as features [L, D], in the same way on every process; views: see `choose`

    Errors: InputError where a table that was asked for does not fit.
    """
    choices = choose(encoder, splits, asked, views)
    cached = torch.tensor([int(choice.way == "cache") for choice in choices], device=accelerator.device)
    everywhere = (accelerator.reduce(cached, "sum") == accelerator.num_processes).tolist()  # each machine may have a disk of its own
    fed = []
    for choice, rows, fits in zip(choices, splits, everywhere, strict=True):
        if fits:
            make(accelerator, choice.table, progress)
        fed.append(rows.on(opened(choice.table) if fits else LiveStore(rows.store, encoder)))
    # Where nothing is encoded any more the encoder leaves the device to the method.
    encoder.module.to("cpu" if all(everywhere) else accelerator.device)
    return fed
