"""Images that a source of one's own gives, as a tensor or made when asked for. B batch, N rows, H and W in pixels."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.errors import InputError
from data.images.content import contents

CHUNK = 256  # images that are looked at together


class IndexedStore:
    """Some rows of what a source of one's own gives: anything that rows (int64 [B]) index to uint8 [B, 3, H, W]."""

    def __init__(self, images: Any, rows: Tensor, of: str):
        self.images, self.rows, self.of = images, rows, of  # of: what they are, in words

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Tensor) -> Tensor:
        return as_images(self.images[self.rows[index]], self.of)

    def some(self, rows: Sequence[int]) -> "IndexedStore":
        return IndexedStore(self.images, self.rows[list(rows)], self.of)

    def content(self) -> np.ndarray:
        return np.concatenate([contents(self[part]) for part in torch.arange(len(self)).split(CHUNK)])

    def digest(self) -> bytes:
        return hashlib.sha256(self.content().tobytes()).digest()


def as_images(images: Any, of: str) -> Tensor:
    """-> the images. Errors: InputError for what is no uint8 [N, 3, H, W], such as numbers in 0..1 or channels at the end"""
    if isinstance(images, Tensor) and images.dtype == torch.uint8 and images.ndim == 4 and images.shape[1] == 3:
        return images
    found = f"{images.dtype} {list(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
    raise InputError(f"{of} are {found}, where a tensor uint8 [N, 3, H, W] of numbers in 0..255 is read: convert them to that")


def stored(images: Any, of: str) -> Any:
    """-> what a source gives as images, as what rows of them can be taken from. Errors: InputError"""
    if isinstance(images, Tensor) or not hasattr(images, "__len__"):
        return as_images(images, of)
    return images if hasattr(images, "content") else IndexedStore(images, torch.arange(len(images)), of)
