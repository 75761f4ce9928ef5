"""Features of a frozen encoder without a table: images are read ahead by workers, and encoded with the batch that needs them."""

from typing import Any

import torch
from torch import Tensor

from methods.networks.backbones import FrozenEncoder


class LiveStore:
    """Reads images; `encode` makes their features, on the device. Shapes: B batch, L tokens, D features."""

    def __init__(self, images: Any, encoder: FrozenEncoder | None):
        self.images, self.encoder = images, encoder

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Tensor) -> Tensor:
        """int64 [B] rows of the image store -> uint8 [B, 3, H, W]"""
        # index_select copies whole rows; indexing with [] would go pixel by pixel
        return self.images.index_select(0, index) if isinstance(self.images, Tensor) else self.images[index]

    def encode(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, H, W], or float crops of the encoder's size -> float32 [B, L, D], as a table of features would give them

        The precision of the run makes no difference.
        """
        with torch.autocast(images.device.type, enabled=False):
            found = self.encoder(images)
        return found.to(torch.float32, copy=True)  # what the encoder made in inference mode could not be trained on

    @property
    def workers(self) -> int:
        return getattr(self.images, "workers", 0)

    def __getstate__(self) -> dict[str, Any]:
        return {"images": self.images, "encoder": None}  # a worker process reads and encodes nothing
