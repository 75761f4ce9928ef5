"""What an image is, in 16 bytes, whatever file or table holds it; and the order of rows that follows from it.

Two images with one digest give a model the same pixels. The rule, by what the first bytes say the file is:

* lossless and upright (PNG, BMP, GIF, PPM, lossless WebP): sha256 of height, width and the RGB pixels as they are decoded, so that
  a PNG, another PNG of the same picture, and a row of a table of pixels are one image;
* all else (JPEG, lossy WebP, TIFF, what a tag turns, what cannot be decoded): sha256 of the bytes, as `sha256sum` gives it. Decoders
  of lossy files differ in the last bit from version to version, and reading is a hundred times as fast as decoding.

Shapes: N rows, H and W in pixels.
"""

import contextlib
import hashlib
import io
from typing import Any

import numpy as np
from torch import Tensor

from data.images import decode

SIZE = 16  # bytes of a digest: among a billion images, two have the same one with a chance of 1e-21
LOSSLESS = (b"\x89PNG\r\n\x1a\n", b"BM", b"GIF87a", b"GIF89a", b"P1", b"P2", b"P3", b"P4", b"P5", b"P6")


def file_digest(data: bytes) -> bytes:
    """The bytes of an image file -> its digest"""
    if data.startswith(LOSSLESS) or (data[:4], data[8:16]) == (b"RIFF", b"WEBPVP8L"):
        with contextlib.suppress(decode.CorruptImage):
            pixels = decode.native(io.BytesIO(data))
            if pixels is not None:
                return pixel_digest(pixels)
    return hashlib.sha256(data).digest()[:SIZE]


def pixel_digest(pixels: np.ndarray) -> bytes:
    """uint8 [H, W, 3] -> its digest"""
    height, width, _ = pixels.shape
    return hashlib.sha256(b"%d x %d pixels\n" % (height, width) + pixels.tobytes()).digest()[:SIZE]


def contents(images: Any) -> np.ndarray:
    """A store of images, or a tensor uint8 [N, 3, H, W] -> the digests of its rows, uint8 [N, SIZE]"""
    if not isinstance(images, Tensor):
        return images.content()
    rows = images.permute(0, 2, 3, 1).numpy()  # [N, H, W, 3]
    return np.frombuffer(b"".join(map(pixel_digest, rows)), np.uint8).reshape(-1, SIZE)


def halves(content: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [N, SIZE] -> two columns of big-endian uint64 [N], which sort as the digests do"""
    both = np.ascontiguousarray(content).view(">u8").astype(np.uint64)
    return both[:, 0], both[:, 1]


def canonical_order(content: np.ndarray, *columns: np.ndarray) -> np.ndarray:
    """-> int64 [N], the rows by the columns int64 [N], the first of them first, then by content: the same from any packaging"""
    first, second = halves(content)
    return np.lexsort((second, first, *reversed(columns)))


def sorted_digest(content: np.ndarray, *columns: np.ndarray) -> bytes:
    """-> sha256 over the rows, each the columns int64 [N] and its content, whatever order they come in"""
    order = canonical_order(content, *columns)
    digest = hashlib.sha256(repr((len(content), len(columns))).encode())
    for column in columns:
        digest.update(np.ascontiguousarray(column[order], "<i8").tobytes())
    digest.update(np.ascontiguousarray(content[order]).tobytes())
    return digest.digest()


def copies(content: np.ndarray, among: np.ndarray) -> np.ndarray:
    """uint8 [N, SIZE], [M, SIZE] -> int64, the rows of the first that are rows of the second, too"""
    near = np.flatnonzero(np.isin(halves(content)[0], halves(among)[0]))
    wanted = np.flatnonzero(np.isin(halves(among)[0], halves(content[near])[0]))
    known = {among[row].tobytes() for row in wanted}
    return np.array([row for row in near if content[row].tobytes() in known], dtype=np.int64)
