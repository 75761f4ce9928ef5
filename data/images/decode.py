"""One image file -> pixels. H and W in pixels.

The rule, for whatever a file holds (of several frames, the first):

* 8 bits a channel are kept: grey is repeated, palettes and 1 bit are looked up, CMYK, YCbCr, HSV and LAB (D50) are converted by Pillow.
* More bits are scaled by the file's own range: by the bits or the highest value that it declares (TIFF, PGM), else by the whole range of
  its type, 0..65535, where it uses the upper half. A file that does neither may hold 12 bits in 16, and is refused.
* Floating point is 0..1; whole numbers of 32 bits must declare their highest value (TIFF's MaxSampleValue). Anything else is refused.
* Transparency is laid over white. The EXIF orientation is followed.
"""

import os
import struct
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps

# What is read. Others of Pillow's formats start programs (EPS), are no pictures (HDF5, MPEG), or are known by no sign but their name.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000", "QOI", "ICO", "PSD", "DDS", "SGI", "PCX", "TGA")
BY_NAME = ("SGI", "PCX", "TGA")  # whose first bytes say too little: these are known by their endings alone
ORIENTATION, HIGHEST = 0x0112, 0x0119  # tags of EXIF and TIFF
Image.init()  # load every decoder now, not under the first threads
SUFFIXES = frozenset(
    ending for ending, name in Image.registered_extensions().items() if name in (*FORMATS, "MPO")
)  # Pillow opens MPO as JPEG

EIGHT = "save it with 8 bits, scaled by the range that you know"


class CorruptImage(Exception):
    """A file that is no readable image."""


BROKEN = (OSError, SyntaxError, ValueError, TypeError, EOFError, IndexError, KeyError, struct.error, Image.DecompressionBombError)


def is_image(path: str) -> bool:
    """-> has the file the ending of an image, or the content of one? Files that cannot be opened have not."""
    if os.path.splitext(path)[1].lower() in SUFFIXES:
        return True
    known = [name for name in FORMATS if name not in BY_NAME]
    try:
        with open(path, "rb") as file:
            start = file.read(16)
        if not any(accept is None or accept(start) is True for _, accept in map(Image.OPEN.get, known)):
            return False
        with Image.open(path, formats=known):
            return True
    except BROKEN:
        return False


def decode(file: Path | IO[bytes], size: int | None) -> np.ndarray:
    """-> uint8 [H, W, 3] in RGB, by the rule above; with `size`, [size, size, 3]: shorter side resized, centre kept

    JPEG files are decoded at the smallest scale that still covers `size` (draft mode). Errors: CorruptImage.
    """
    try:
        with Image.open(file, formats=FORMATS) as image:
            if size is not None:
                image.draft("RGB", (size, size))
            rgb, turned = _loaded(image)
            if size is not None:
                rgb = _square(rgb, size)
            return np.asarray(ImageOps.exif_transpose(_tagged(rgb, image)) if turned else rgb)
    except BROKEN as error:
        raise CorruptImage(str(error) or type(error).__name__) from error


def native(file: Path | IO[bytes]) -> np.ndarray | None:
    """-> uint8 [H, W, 3], all pixels as `decode` has them before it cuts and resizes; None where a tag turns the image

    Of turned images `decode` resizes before it turns, so that the turned pixels would not say what it gives. Errors: CorruptImage.
    """
    try:
        with Image.open(file, formats=FORMATS) as image:
            rgb, turned = _loaded(image)
            return None if turned else np.asarray(rgb)
    except BROKEN as error:
        raise CorruptImage(str(error) or type(error).__name__) from error


def squared(pixels: np.ndarray, size: int) -> np.ndarray:
    """uint8 [H, W, 3] -> [size, size, 3], as `decode` brings a file to a size"""
    return np.asarray(_square(Image.fromarray(pixels), size))


def _loaded(image: Image.Image) -> tuple[Image.Image, bool]:
    """-> all pixels in RGB, and whether a tag turns them"""
    depth = str(image.tile[0].args) if image.tile else ""  # how the file holds its pixels, such as 'RGB;16B'
    image.load()
    turned = image.getexif().get(ORIENTATION, 1) != 1  # asked after loading: of a TIFF, Pillow has then turned the pixels
    return _rgb(image, depth), turned


def _rgb(image: Image.Image, depth: str) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        image = Image.fromarray(_scaled(image, depth))
    elif ";16" in depth and np.asarray(image)[..., :3].max() < 128:  # Pillow keeps the upper byte
        raise ValueError(f"its 16 bits a channel use the lower half of their range only: {EIGHT}")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        clear = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy


def _scaled(image: Image.Image, depth: str) -> np.ndarray:
    """Grey values of more than 8 bits -> uint8 [H, W]. Errors: ValueError for a range that nobody knows."""
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if not np.isfinite(high - low):
        raise ValueError(f"it holds values that are not finite: {EIGHT}")
    if image.mode == "F":
        if low < 0 or high > 1:
            raise ValueError(f"its floating-point values run from {low:g} to {high:g} where 0 to 1 is read: {EIGHT}")
        return np.rint(values * np.float32(255)).astype(np.uint8)
    declared = _declared(image, depth)
    if low < 0 or high > (declared or 65535):
        raise ValueError(f"its grey values run from {low} to {high} and it does not say their range: {EIGHT}")
    if declared is None and 0 < high < 32768:
        raise ValueError(f"its grey values end at {high} and it does not say whether that is white: {EIGHT}")
    if declared in (None, 65535):
        return (values >> 8).astype(np.uint8)
    return np.rint(values * (255 / declared)).astype(np.uint8)


def _declared(image: Image.Image, depth: str) -> int | None:
    """-> the value that stands for white, where the file says so"""
    if image.format == "PPM":  # Pillow scales by the file's own maximum
        return 65535
    if image.format == "TIFF":
        highest = image.tag_v2.get(HIGHEST)
        if highest:
            return int(highest[0] if isinstance(highest, tuple) else highest)
        if ";12" in depth:
            return 4095
    return None


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
