"""How batches reach the device: read ahead by worker processes where images are decoded, made into features there where none are cached.

Shapes: B batch, L tokens, D features.
"""

import os
from collections.abc import Iterable

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader

from data.images.augment import Augment
from data.stream import Batch, Rows


def reader(accelerator: Accelerator, rows: Rows, batches: Iterable[Tensor], count: int) -> DataLoader:
    """-> `rows[positions]` for each of the `count` positions (int64 [B]) of `batches`, in their order

    Where the store decodes files, worker processes read ahead, all processes of a machine together as many as the store says.
    """
    workers = 0
    if rows.workers and count > 1:
        workers = min(count, max(1, rows.workers // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    pinned = accelerator.device.type == "cuda"
    own = torch.Generator()  # else a loader would draw from the global one, which methods draw from
    return DataLoader(rows, batch_size=None, sampler=batches, num_workers=workers, pin_memory=pinned, generator=own)


def fed(accelerator: Accelerator, rows: Rows, batch: Batch, augment: Augment | None = None, draws: Tensor | None = None) -> Batch:
    """-> the batch on the device, augmented by `draws`; as features [B, L, D] where its rows are those of images with an encoder"""
    batch = Batch(*(column.to(accelerator.device, non_blocking=True) for column in batch))
    if augment is not None:
        batch = batch._replace(inputs=augment(batch.inputs, draws))
    return batch if rows.encode is None else batch._replace(inputs=rows.encode(batch.inputs))
