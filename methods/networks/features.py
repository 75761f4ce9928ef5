"""Features of a frozen encoder: computed once for each image, cached on disk, shared by methods, seeds and runs."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from data.caching.cache import cache_dir, content_key
from data.caching.cache import table as new_table
from data.caching.entries import making, use
from data.errors import InputError
from data.stream import Batch, Rows, store_digest
from methods.learning.training import embed
from methods.networks.backbones import FrozenEncoder

CHUNK = 8192  # rows held in memory while features are computed


class FeatureStore:
    """A memory-mapped table of features that answers to the row numbers of the image store it was made from."""

    def __init__(self, table: np.ndarray, rows: Tensor, images: object):
        self.table, self.rows, self.images = table, rows, images  # [N, L, D]; int64 [N], ascending; the image store

    def __getitem__(self, index: Tensor) -> Tensor:
        """int64 [B] rows of the image store -> float32 [B, L, D]"""
        rows = torch.from_numpy(self.table[torch.searchsorted(self.rows, index).numpy()])
        return rows.view(torch.bfloat16).float() if rows.dtype == torch.uint16 else rows


def with_features(accelerator: Accelerator, encoder: FrozenEncoder, rows: Rows, batch_size: int = 64, progress: bool = True) -> Rows:
    """-> the same rows, read as features [L, D]; computed on all processes where the cache has none"""
    index = rows.index.sort().values
    key = content_key(encoder.name, sorted(encoder.weights.items()), store_digest(rows.store), index.numpy().tobytes())
    path = cache_dir("features") / f"{key}.npy"
    known = torch.tensor(int(use(path)), device=accelerator.device)
    if accelerator.reduce(known, "sum").item() < accelerator.num_processes:
        _compute(accelerator, encoder, Rows(rows.store, index, torch.zeros_like(index)), batch_size, path, progress)
        accelerator.wait_for_everyone()
        if not use(path):
            raise InputError(f"the cache entry {path} was removed while it was made: run this again")
    table = np.load(path, mmap_mode="c", allow_pickle=False)  # copy-on-write: torch wants writable memory, the file stays
    return rows.on(FeatureStore(table, index, rows.store))


def _compute(accelerator: Accelerator, encoder: FrozenEncoder, rows: Rows, batch_size: int, path: Path, progress: bool) -> None:
    """Encode every row on all processes; the main one of each machine, which may have a cache of its own, writes the table."""
    encoder.module.to(accelerator.device)

    def encode(batch: Batch) -> tuple[Tensor]:
        with torch.autocast(accelerator.device.type, enabled=False):  # one cache serves runs of every precision
            return (encoder(batch.inputs),)

    with making(path) if accelerator.is_local_main_process else nullcontext() as work:
        table = None
        for start in range(0, len(rows), CHUNK):
            chunk = rows.at(torch.arange(start, min(start + CHUNK, len(rows))))
            (features,) = embed(accelerator, encode, chunk, batch_size, "encoding images" if progress else None)
            if work is None:
                continue
            # numpy has no bfloat16: what an encoder gives in it is kept as its bits, in half the room and without loss.
            kept = features.view(torch.uint16) if features.dtype == torch.bfloat16 else features.float()
            if table is None:
                table = new_table(work, kept.numpy().dtype, (len(rows), *features.shape[1:]))
            table[start : start + len(chunk)] = kept.numpy()
        if table is not None:
            table.flush()
