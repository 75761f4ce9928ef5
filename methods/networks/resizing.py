"""Images resized as Pillow resizes them, to the bit, a batch at a time and on any device.

Pillow weighs pixels in whole numbers, rounds to bytes after each of its two passes, and chooses the order of the two. Products of whole
numbers in float64 are exact: what an image becomes depends neither on its batch nor on its device. Shapes: B batch, H and W in pixels.
"""

import functools

import numpy as np
import torch
from PIL import Image
from torch import Tensor

KERNELS = {kernel.name.lower(): kernel for kernel in Image.Resampling}  # nearest, lanczos, bilinear, bicubic, box, hamming
ONE = 2**22  # Pillow's whole number for a weight of 1
TOGETHER = 32  # images, so that their float64 takes little memory


def resized(images: Tensor, sides: tuple[int, int], cut: int, kernel: str) -> Tensor:
    """uint8 [B, 3, H, W] resized to `sides` -> float32 [B, 3, cut, cut], bytes by value, out of the middle"""
    size, steps = tuple(images.shape[-2:]), [(-1, sides[1]), (-2, sides[0])]
    if size != tuple(sides) and down_first(*size, *sides, kernel):
        steps.reverse()
    device = torch.device("cpu") if images.device.type == "mps" else images.device  # Apple's has no float64
    found = [_passes(part.to(device, torch.float64), steps, cut, kernel) for part in images.split(TOGETHER)]
    return torch.cat(found).to(images.device, torch.float32)


def _passes(pixels: Tensor, steps: list[tuple[int, int]], cut: int | None, kernel: str) -> Tensor:
    """steps: dimension, and the pixels that it shall have; cut: pixels out of its middle, None = all"""
    for dim, size in steps:
        first = 0 if cut is None else round((size - cut) / 2)
        last = size if cut is None else first + cut
        if size == pixels.shape[dim]:
            pixels = pixels.narrow(dim, first, last - first)
            continue
        weights = shares(pixels.shape[dim], size, kernel)[first:last].to(pixels.device)
        sums = pixels @ weights.T if dim == -1 else weights @ pixels
        pixels = ((sums + ONE / 2) / ONE).floor().clamp(0, 255)
    return pixels


@functools.lru_cache(maxsize=64)
def shares(side: int, size: int, kernel: str) -> Tensor:
    """-> float64 [size, side], whole numbers: how much each of `side` pixels of a line weighs in each of `size` ones

    Pillow's own: it is given lines that are black but for one pixel.
    """
    lines = Image.fromarray(np.eye(side, dtype=np.int32) * ONE).resize((size, side), KERNELS[kernel])
    return torch.from_numpy(np.asarray(lines).T.astype(np.float64))


@functools.lru_cache(maxsize=1024)
def down_first(height: int, width: int, new_height: int, new_width: int, kernel: str) -> bool:
    """-> does Pillow resize such images by their columns first? Its versions differ: it is tried with an image that shows it."""
    noise = np.random.default_rng(0).integers(0, 256, (height, width)).astype(np.uint8)
    theirs = np.asarray(Image.fromarray(noise).resize((new_width, new_height), KERNELS[kernel]))
    pixels, steps = torch.from_numpy(noise).double(), [(-1, new_width), (-2, new_height)]
    across, down = (abs(_passes(pixels, order, None, kernel).numpy() - theirs).max() for order in (steps, steps[::-1]))
    return bool(down < across)
