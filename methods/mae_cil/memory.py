"""The memory of visible patches, and its images among those of a task.

Shapes: B batch, M exemplars, m of a class, N rows, S side of an image in pixels, p of a patch, L patches, P = 3 p^2 values of a patch,
k visible patches.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from data.stream import Rows
from methods.config import MAECIL
from methods.mae_cil.patches import as_mask, pack, sized, to_patches, unpack, visible_count
from methods.memory.exemplars import ExemplarMemory, kept
from methods.memory.ragged import joined, parted

NEW, KEPT, MADE = 255, 128, 0  # fourth channel: a pixel of a new image, one that an exemplar has kept, one that the network made


class PatchMemory(ExemplarMemory):
    """Exemplars as the pixels of their visible patches and the bits of the mask, one mask an image. No whole image is kept.

    `lists` still says which rows were taken: for counting, and for the picture of a task while its images are at hand.
    """

    def __init__(self, options: MAECIL):
        super().__init__(**kept(options) | {"own_copy": False})  # what is packed is its own copy
        self.size, self.patch, self.ratio = options.image_size, options.patch, options.mask_ratio if options.masked_memory else 0.0
        self.packed: dict[int, tuple[Tensor, Tensor]] = {}  # class id -> uint8 [m, k, P], uint8 [m, ceil(L/8)]; best first
        self.patches = 0  # L

    def cost(self, train: Rows) -> int:
        """-> bytes of the visible patches, and of the mask where there is one"""
        _, self.patches, values = to_patches(sized(train.store[train.index[:1]], self.size), self.patch).shape
        return visible_count(self.patches, self.ratio) * values + (-(-self.patches // 8) if self.ratio else 0)

    def keep(self, label: int, store: Any, rows: Tensor, chosen: Tensor, generator: torch.Generator) -> None:
        parts = [self.packed[label]] if label in self.packed else []
        if len(rows):
            order = torch.rand(len(rows), self.patches, generator=generator).argsort(1)
            visible = as_mask(order[:, : visible_count(self.patches, self.ratio)], self.patches)
            parts.append(pack(sized(store[rows], self.size), visible, self.patch))
        self.packed[label] = tuple(torch.cat(part)[chosen] for part in zip(*parts, strict=True))

    def images(self, labels: Iterable[int]) -> tuple[Tensor, Tensor, Tensor]:
        """-> uint8 [M, 3, S, S] with 0 where nothing was kept, visible bool [M, L] and labels int64 [M], class by class"""
        parts = [(*unpack(*self.packed[label], self.patch, self.patches), torch.full((len(self.lists[label]),), label)) for label in labels]
        return tuple(torch.cat(columns) for columns in zip(*parts, strict=True))

    def state_dict(self) -> dict[str, Any]:
        pixels, bits = ({label: pair[part] for label, pair in self.packed.items()} for part in (0, 1))
        return {**super().state_dict(), "pixels": joined(pixels), "bits": joined(bits), "patches": self.patches}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        pixels, bits = parted(state["pixels"]), parted(state["bits"])
        self.packed, self.patches = {label: (pixels[label], bits[label]) for label in pixels}, state["patches"]


class Rehearsed:
    """A store of a task's images and of completed exemplars behind them, with a fourth channel that says whence a pixel is.

    store: the task's; first: number of the first exemplar, beyond the rows used of it; completed: uint8 [M, 4, S, S]
    """

    def __init__(self, store: Any, first: int, completed: Tensor, size: int | None):
        self.store, self.first, self.completed, self.size = store, first, completed, size
        self.workers = getattr(store, "workers", 0)

    def __getitem__(self, index: Tensor) -> Tensor:
        """int64 [B] -> uint8 [B, 4, S, S]"""
        old = index >= self.first
        if old.all():
            return self.completed[index - self.first]
        images = sized(self.store[index[~old]], self.size)
        images = torch.cat([images, torch.full_like(images[:, :1], NEW)], 1)
        out = images.new_empty(len(index), *images.shape[1:])
        out[~old] = images
        out[old] = self.completed[index[old] - self.first].view(-1, *images.shape[1:])
        return out


def rehearsed(train: Rows, completed: Tensor, labels: Tensor, size: int | None) -> Rows:
    """-> a task's rows, and the completed exemplars uint8 [M, 4, S, S] of classes int64 [M] after them"""
    first = int(train.index.max()) + 1
    index = torch.cat([train.index, first + torch.arange(len(completed))])
    return Rows(Rehearsed(train.store, first, completed, size), index, torch.cat([train.labels, labels]))
