"""Images as patches, and masks over them.

Shapes: B batch, S side of a square image in pixels, p of a patch, L = (S/p)^2 patches, P = 3 p^2 values of a patch, k visible patches.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from data.errors import InputError
from data.images.augment import resize


def sized(images: Tensor, size: int | None) -> Tensor:
    """uint8 [B, 3, H, W] -> uint8 [B, 3, size, size]; null keeps the size"""
    return resize(images, size).round().to(torch.uint8)


def to_patches(images: Tensor, patch: int) -> Tensor:
    """[B, C, S, S] -> [B, L, C p^2], row by row. Errors: InputError where the images are no whole square of patches."""
    height, width = images.shape[-2:]
    if height != width or height % patch:
        raise InputError(
            f"{width}x{height} pixels are no square of patches of {patch}: set method.image_size to a multiple of method.patch"
        )
    return pixel_unshuffle(images, patch).flatten(2).transpose(1, 2)


def to_images(patches: Tensor, patch: int) -> Tensor:
    """The inverse of `to_patches`: [B, L, C p^2] -> [B, C, S, S]"""
    side = int(patches.shape[1] ** 0.5)
    return pixel_shuffle(patches.transpose(1, 2).unflatten(2, (side, side)), patch)


def visible_count(patches: int, ratio: float) -> int:
    """-> how many of an image's patches stay visible when the share `ratio` is hidden: one at least"""
    return max(1, round(patches * (1 - ratio)))


def as_mask(chosen: Tensor, patches: int) -> Tensor:
    """int64 [B, k] -> bool [B, L], true where a patch is chosen"""
    return torch.zeros(len(chosen), patches, dtype=torch.bool, device=chosen.device).scatter_(1, chosen, True)


def as_positions(visible: Tensor) -> Tensor:
    """bool [B, L] with k visible in each row -> int64 [B, k], ascending"""
    return visible.nonzero()[:, 1].view(len(visible), -1)


def as_pixels(mask: Tensor, patch: int) -> Tensor:
    """bool [B, L] -> bool [B, 1, S, S]"""
    return to_images(mask[..., None].expand(-1, -1, patch**2), patch)


def take(patches: Tensor, chosen: Tensor) -> Tensor:
    """[B, L, P], int64 [B, k] -> [B, k, P]"""
    return patches.gather(1, chosen[..., None].expand(-1, -1, patches.shape[2]))


def pack(images: Tensor, visible: Tensor, patch: int) -> tuple[Tensor, Tensor]:
    """What a masked image is kept as. uint8 [B, 3, S, S], bool [B, L] -> uint8 [B, k, P] and the mask's bits, uint8 [B, ceil(L/8)]"""
    return take(to_patches(images, patch), as_positions(visible)), torch.from_numpy(np.packbits(visible.numpy(), axis=1))


def unpack(pixels: Tensor, bits: Tensor, patch: int, patches: int) -> tuple[Tensor, Tensor]:
    """The inverse of `pack`: -> uint8 [B, 3, S, S], 0 where nothing was kept, and visible, bool [B, L]"""
    visible = torch.from_numpy(np.unpackbits(bits.numpy(), axis=1, count=patches).astype(bool))
    blank = torch.zeros(len(pixels), patches, pixels.shape[2], dtype=torch.uint8)
    chosen = as_positions(visible)[..., None].expand(-1, -1, pixels.shape[2])
    return to_images(blank.scatter_(1, chosen, pixels), patch), visible
