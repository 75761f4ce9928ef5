"""A table of features on disk: each process encodes a share of the rows and writes it to its place; nothing else goes between them.

One file serves all processes of a machine; those of all machines where CILBENCH_CACHE_SHARED=1 says that the cache is one folder for
them. What a killed attempt has written is not computed again, on any number of processes. Shapes: B batch, L tokens, D features, N rows.
"""

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from data.caching.cache import content_key, taking
from data.caching.cache import table as new_table
from data.caching.entries import digest, making, making_lock, use
from data.code import maker
from data.errors import InputError
from data.stream import Rows, store_digest
from methods.learning.feeding import fed, reader
from methods.networks.backbones import FrozenEncoder

BATCH = 64  # rows encoded at once: the same rows together, whoever encodes them
TOGETHER = 16  # batches between two marks of what is done
WAIT = 1.0  # seconds between two looks at a table that another run makes


class FeatureStore:
    """A memory-mapped table of features that answers to the row numbers of the image store it was made from."""

    def __init__(self, table: np.ndarray, rows: Tensor, images: object):
        self.table, self.rows, self.images = table, rows, images  # [N, L, D]; int64 [N], ascending; the image store

    def __getitem__(self, index: Tensor) -> Tensor:
        """int64 [B] rows of the image store -> float32 [B, L, D]"""
        rows = torch.from_numpy(self.table[torch.searchsorted(self.rows, index).numpy()])
        return rows.view(torch.bfloat16).float() if rows.dtype == torch.uint16 else rows


@dataclass(frozen=True)
class Table:
    """The features of some rows, on disk or to be."""

    path: Path
    rows: Rows  # all of them, in ascending order
    encoder: FrozenEncoder

    @property
    def bytes(self) -> int:
        """-> bytes that it takes"""
        return len(self.rows) * int(np.prod(self.encoder.shape)) * kept_bytes(self.encoder)


def kept_bytes(encoder: FrozenEncoder) -> int:
    """-> bytes of a number that is kept: what an encoder gives in bfloat16 stays so, all else is float32"""
    kinds = {value.dtype for value in encoder.module.parameters() if value.is_floating_point()}
    return 2 if kinds == {torch.bfloat16} else 4


def table_of(encoder: FrozenEncoder, rows: Rows, folder: Path) -> Table:
    """-> the table of these rows, under the key of all that its numbers follow from"""
    index = rows.index.sort().values
    weights, read = sorted(encoder.weights.items()), store_digest(rows.store)
    key = content_key(encoder.name, weights, _code(encoder), read, index.numpy().tobytes())
    return Table(folder / f"{key}.npy", Rows(rows.store, index, torch.zeros_like(index)), encoder)


def _code(encoder: FrozenEncoder) -> str:
    """-> what feeds an encoder and computes its features"""
    modules = ("methods.networks.backbones", "methods.networks.live", type(encoder.module).__module__)
    libraries = ("torch", "torchvision", "timm", "transformers", "open_clip_torch", "numpy")
    return maker(modules, ("methods.networks.", "methods.gmm."), libraries)


def opened(table: Table) -> FeatureStore:
    """-> a table that is on disk"""
    mapped = np.load(table.path, mmap_mode="c", allow_pickle=False)  # copy-on-write: torch wants writable memory, the file stays
    return FeatureStore(mapped, table.rows.index, table.rows.store)


def make(accelerator: Accelerator, table: Table, progress: bool) -> None:
    """Make the table on all processes where the cache has none, and hold it. Errors: InputError where the disk does not take it."""
    rank, size = _group(accelerator)
    waits = False
    while not _all(accelerator, have := use(table.path)):
        lock = None if have or rank else making_lock(table.path)
        free = _all(accelerator, have or rank > 0 or lock is not None)
        with contextlib.closing(lock) if lock else contextlib.nullcontext():
            if free:
                _encode(accelerator, table, rank, size, have, progress)
        if not free:
            if not waits and accelerator.is_main_process:
                print(f"waiting for another run that encodes the same images into {table.path}", file=sys.stderr, flush=True)
            waits = True
            time.sleep(WAIT)
    sha256 = torch.tensor([int(digest(table.path)[:15], 16)], device=accelerator.device)
    if len(set(accelerator.gather(sha256).tolist())) > 1 and accelerator.is_main_process:
        print("warning: the machines made different features of the same images: their devices or versions differ", file=sys.stderr)


def _group(accelerator: Accelerator) -> tuple[int, int]:
    """-> which of how many processes that write one file this one is. Errors: InputError"""
    shared = os.environ.get("CILBENCH_CACHE_SHARED") or "0"
    if shared not in ("0", "1"):
        raise InputError(f"CILBENCH_CACHE_SHARED={shared} is neither 0 nor 1: set it to 1 where all machines share the cache")
    if shared == "1":
        return accelerator.process_index, accelerator.num_processes
    return accelerator.local_process_index, int(os.environ.get("LOCAL_WORLD_SIZE", accelerator.num_processes))


def _all(accelerator: Accelerator, flag: bool) -> bool:
    """-> is it true on every process?"""
    return accelerator.reduce(torch.tensor(int(flag), device=accelerator.device), "sum").item() == accelerator.num_processes


def _encode(accelerator: Accelerator, table: Table, rank: int, size: int, have: bool, progress: bool) -> None:
    """Encode what is missing of the table, this process its share, and let the first of the group put it into the cache."""
    table.encoder.module.to(accelerator.device)
    work = table.path.with_name(f".{table.path.name}.parts")
    batches = torch.arange(len(table.rows)).split(BATCH)
    if not have and not rank:
        _prepare(accelerator, table, work)
    accelerator.wait_for_everyone()
    missing = [] if have else sorted(set(range(len(batches))) - set(_done(work)))
    accelerator.wait_for_everyone()  # nobody marks anything before all have read
    mine = np.array_split(np.array(missing, dtype=np.int64), size)[rank].tolist()
    steps = _write(accelerator, table, work, rank, [(number, batches[number]) for number in mine], progress)
    # A word between the processes now and then: none waits for another one longer than these steps take.
    while not _all(accelerator, next(steps, None) is None):
        pass
    if not have and not rank:
        with making(table.path) as place:
            os.replace(work / table.path.name, place)
        shutil.rmtree(work)
    accelerator.wait_for_everyone()


def _prepare(accelerator: Accelerator, table: Table, work: Path) -> None:
    """Make the file, or find the one of an attempt that was killed."""
    one = _kept(_features(accelerator, table, next(iter(reader(accelerator, table.rows, [torch.arange(1)], 1)))))
    shape = (len(table.rows), *one.shape[1:])
    with taking(table.path.parent):
        if work.exists():
            with contextlib.suppress(OSError, ValueError):
                found = np.load(work / table.path.name, mmap_mode="r", allow_pickle=False)
                if (found.shape, found.dtype) == (shape, one.dtype):
                    return
            shutil.rmtree(work)
        work.mkdir()
        new_table(work / table.path.name, one.dtype, shape)


def _done(work: Path) -> Iterator[int]:
    """-> numbers of the batches that are on the disk"""
    for marks in work.glob("done-*"):
        yield from (int(line) for line in marks.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n"))


def _write(accelerator: Accelerator, table: Table, work: Path, rank: int, mine: list[tuple[int, Tensor]], progress: bool) -> Iterator[int]:
    """Encode batches and write them to their places. A step is TOGETHER batches, which are on the disk when it ends."""
    if not mine:
        return
    file, marks = work / table.path.name, work / f"done-{rank}"
    mapped = np.load(file, mmap_mode="r", allow_pickle=False)
    first, width = mapped.offset, mapped[:1].nbytes
    read = reader(accelerator, table.rows, [positions for _, positions in mine], len(mine))
    quiet = not (progress and accelerator.is_main_process)
    said = tqdm(read, "encoding images", len(mine), unit="batch", disable=quiet, file=sys.stderr, leave=False)
    fresh: list[int] = []
    with taking(file.parent), file.open("r+b") as out:
        for count, ((number, positions), batch) in enumerate(zip(mine, said, strict=True), start=1):
            out.seek(first + int(positions[0]) * width)
            out.write(memoryview(_kept(_features(accelerator, table, batch))).cast("B"))
            fresh.append(number)
            if count % TOGETHER == 0 or count == len(mine):
                out.flush()
                os.fsync(out.fileno())
                with marks.open("a") as log:  # only now: what is marked survives a power cut
                    log.write("".join(f"{done}\n" for done in fresh))
                fresh = []
                yield count


def _features(accelerator: Accelerator, table: Table, batch) -> Tensor:
    """-> as the encoder gives them, on the device"""
    with torch.autocast(accelerator.device.type, enabled=False):  # one cache serves runs of every precision
        return table.encoder(fed(accelerator, table.rows, batch).inputs)


def _kept(features: Tensor) -> np.ndarray:
    """numpy has no bfloat16: what an encoder gives in it is kept as its bits, in half the room and without loss."""
    bits = features.view(torch.uint16) if features.dtype == torch.bfloat16 else features.float()
    return np.ascontiguousarray(bits.cpu().numpy())
