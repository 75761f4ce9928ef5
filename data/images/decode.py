"""One image file -> pixels. H and W in pixels."""

import struct
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps

VERSION = 1  # raised when the same file would give other pixels
SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"))
ORIENTATION = 0x0112  # the EXIF tag
Image.init()  # load every decoder now, not under the first threads


class CorruptImage(Exception):
    """A file that is no readable image."""


def decode(file: Path | IO[bytes], size: int | None) -> np.ndarray:
    """-> uint8 [H, W, 3] in RGB, turned as its EXIF tag says; with `size`, [size, size, 3]: shorter side resized, centre kept

    JPEG files are decoded at the smallest scale that still covers `size` (draft mode). Grey, palette and CMYK images become
    RGB, transparency is dropped, as `convert("RGB")` of every torchvision loader does. Errors: CorruptImage.
    """
    try:
        with Image.open(file) as image:
            turned = image.getexif().get(ORIENTATION, 1) != 1
            if size is not None:
                image.draft("RGB", (size, size))
            rgb = _rgb(image)
            if size is not None:
                rgb = _square(rgb, size)
            return np.asarray(ImageOps.exif_transpose(_tagged(rgb, image)) if turned else rgb)
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, struct.error, Image.DecompressionBombError) as error:
        raise CorruptImage(str(error) or type(error).__name__) from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # 16-bit grey: `convert` would clip it to 8 bits, not scale it
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy


def _square(image: Image.Image, size: int) -> Image.Image:
    """Cut the centred square and resize it, in one step."""
    width, height = image.size
    if (width, height) == (size, size):
        return image
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))


def _tagged(rgb: Image.Image, image: Image.Image) -> Image.Image:
    """Carry the orientation over to an image that was converted or resized."""
    rgb.info["exif"] = image.info.get("exif", b"")
    rgb.getexif()[ORIENTATION] = image.getexif()[ORIENTATION]
    return rgb
