"""A digest of what a method holds: equal on every rank, or something went wrong."""

import hashlib
from typing import Any

import torch
from torch import Tensor

from data.stream import Rows


def state_digest(state: Any) -> str:
    """-> sha256 over a nest of dicts, lists, tensors and plain values"""
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, Tensor):
            digest.update(
                repr((tuple(value.shape), value.dtype)).encode()
                + value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
            )
        elif isinstance(value, Rows):
            add([value.index, value.labels])
        elif isinstance(value, dict):
            for key in value:
                digest.update(repr(key).encode())
                add(value[key])
        elif isinstance(value, (list, tuple)):
            for one in value:
                add(one)
        else:
            digest.update(repr(value).encode())

    add(state)
    return digest.hexdigest()
