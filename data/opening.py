"""From the options to a stream that is ready to be read, with no image decoded that it does not use."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.config import StreamConfig
from data.images.store import FileStore, decoded, decoded_bytes
from data.source import load, tell
from data.stream import Rows, TaskStream


@dataclass(frozen=True)
class UsedStore:
    """The pixels of some rows of a FileStore, under their own numbers."""

    files: FileStore
    part: Any  # a `DecodedStore` of the rows in use
    at: Tensor  # int64 [len(files)], where each row stands in it; -1 for what is not in use

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: Tensor) -> Tensor:
        """int64 [B] -> uint8 [B, 3, H, W]"""
        return self.part[self.at[index]]

    @property
    def names(self) -> list[str]:
        return self.files.names

    def content(self) -> np.ndarray:
        return self.files.content()

    def digest(self) -> bytes:
        return self.files.digest()


def opened(config: StreamConfig) -> TaskStream:
    """-> the stream. Where stream.limit or stream.tasks leave most of a data set's files unused, only those in use are decoded.

    Errors: InputError as `load` and `TaskStream` raise it.
    """
    few = (config.limit is not None or config.tasks is not None) and config.corrupt == "stop"  # `skip` looks at every file
    source = load(config, decode=not few)
    stream = TaskStream(source, config)
    if few:
        tell(source)
        stream.train_rows, stream.scored_rows = (_in_use(rows, config) for rows in (stream.train_rows, stream.scored_rows))
    return stream


def _in_use(rows: Rows, config: StreamConfig) -> Rows:
    if not isinstance(rows.store, FileStore):
        return rows
    used = rows.index.unique()
    files = rows.store.some(used.tolist())
    if decoded_bytes(files) > config.cache_gib * 2**30:
        return rows
    at = torch.full((len(rows.store),), -1)
    at[used] = torch.arange(len(used))
    return rows.on(UsedStore(rows.store, decoded(files), at))
