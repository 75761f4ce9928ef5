"""Image files as a table of pixels: decoded once, in parallel, into a memory-mapped cache; or batch by batch, while training.

Shapes: B batch, N files, H and W in pixels.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import features
from torch import Tensor
from torch.utils.data import get_worker_info

from data import bars, code
from data.caching.cache import cache_dir, content_key, table
from data.caching.entries import cached
from data.caching.remembered import remembered, stamp
from data.errors import InputError
from data.images import content, decode

CHUNK = 256  # files decoded between two steps of the progress bar


class FileStore:
    """Images decoded when asked for. `store[rows]` is uint8 [B, 3, H, W].

    names: paths below `root`, with forward slashes; what an image is, its `content` says alone
    size: pixels of the square they are brought to; None where all are of one size already
    """

    _content: np.ndarray | None = None

    def __init__(self, root: Path, names: Sequence[str], size: int | None = None, workers: int | None = None):
        self.root, self.names, self.size = root, names, size
        self.workers = min(os.cpu_count() or 1, 16) if workers is None else workers

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: Tensor) -> Tensor:
        rows = index.tolist()
        if not rows:
            return torch.empty(0, 3, 0, 0, dtype=torch.uint8)
        first = self.image(rows[0])
        table = np.empty((len(rows), *first.shape), np.uint8)
        table[0] = first

        def put(at: int) -> None:
            image = self.image(rows[at])
            if image.shape != first.shape:
                raise _varying(self.root / self.names[rows[at]], image.shape, first.shape)
            table[at] = image

        others = range(1, len(rows))
        if get_worker_info() is not None or self.workers < 2:  # a worker process decodes alone
            for at in others:
                put(at)
        else:
            with ThreadPoolExecutor(self.workers) as pool:
                list(pool.map(put, others))
        return torch.from_numpy(table).permute(0, 3, 1, 2).contiguous()

    def open(self, row: int) -> Path | IO[bytes]:
        return self.root / self.names[row]

    def image(self, row: int) -> np.ndarray:
        """-> uint8 [H, W, 3]. Errors: InputError that names the file."""
        try:
            return decode.decode(self.open(row), self.size)
        except decode.CorruptImage as error:
            raise InputError(
                f"{self.root / self.names[row]} is no readable image ({error}): "
                "repair or remove it, or leave such files out with stream.corrupt=skip"
            ) from None

    def some(self, rows: Sequence[int]) -> "FileStore":
        """-> a store of these rows only"""
        part = FileStore(self.root, [self.names[row] for row in rows], self.size, self.workers)
        return part.with_content_of(self, rows)

    def with_content_of(self, other: "FileStore", rows: Sequence[int]) -> "FileStore":
        self._content = None if other._content is None else other._content[list(rows)]
        return self

    def content(self) -> np.ndarray:
        """-> uint8 [N, 16], what each image is (`data.images.content`): read once, and known again by path, size, times and inode"""
        if self._content is None:
            self._content = remembered(os.path.realpath(self.root), self.stamps(), _code(), self._read_digests)
        return self._content

    def digest(self) -> bytes:
        """-> sha256 over what the images are, in their order, and how they are decoded: the key of what is computed from them"""
        how = repr((_code(), self.size, len(self)))
        return hashlib.sha256(how.encode() + self.content().tobytes()).digest()

    def read(self, row: int) -> bytes:
        try:
            return (self.root / self.names[row]).read_bytes()
        except OSError as error:
            raise _lost(self.root / self.names[row], error) from None

    def stamps(self) -> Iterable[bytes]:
        """-> for each row 16 bytes that are others when its file is"""

        def some(names: Sequence[str]) -> list[bytes]:
            return [self.stamp(name) for name in names]

        with ThreadPoolExecutor(max(self.workers, 1)) as pool:  # for folders that lie behind a network
            for part in pool.map(some, (self.names[start : start + 16 * CHUNK] for start in range(0, len(self), 16 * CHUNK))):
                yield from part

    def stamp(self, name: str) -> bytes:
        try:
            return stamp(name, os.stat(f"{self.root}/{name}"))
        except OSError as error:
            raise _lost(self.root / name, error) from None

    def _read_digests(self, rows: list[int]) -> Iterable[bytes]:
        return _in_parallel(lambda at: content.file_digest(self.read(rows[at])), len(rows), self.workers, "reading images")


class PixelStore(FileStore):
    """A table of pixels uint8 [N, 3, H, W] whose rows are brought to another size when asked for."""

    def __init__(self, pixels: Tensor, size: int, workers: int | None = None):
        super().__init__(Path("image"), [str(row) for row in range(len(pixels))], size, workers)
        self.pixels = pixels

    def image(self, row: int) -> np.ndarray:
        return decode.squared(self.pixels[row].permute(1, 2, 0).contiguous().numpy(), self.size)

    def some(self, rows: Sequence[int]) -> "PixelStore":
        return PixelStore(self.pixels[list(rows)], self.size, self.workers).with_content_of(self, rows)

    def content(self) -> np.ndarray:
        if self._content is None:
            self._content = content.contents(self.pixels)
        return self._content


class DecodedStore:
    """The pixels of a FileStore in a memory-mapped table uint8 [N, H, W, 3]."""

    def __init__(self, path: Path, files: FileStore):
        self.path, self.files, self.names = path, files, files.names
        self.table = np.load(path, mmap_mode="r", allow_pickle=False)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: Tensor) -> Tensor:
        """int64 [B] -> uint8 [B, 3, H, W]"""
        return torch.from_numpy(self.table[index.numpy()]).permute(0, 3, 1, 2).contiguous()

    def content(self) -> np.ndarray:
        return self.files.content()

    def digest(self) -> bytes:
        return self.files.digest()

    def __getstate__(self) -> dict:
        return {"path": self.path, "files": self.files}  # a worker process maps the file itself

    def __setstate__(self, state: dict) -> None:
        self.__init__(**state)


def decoded(files: FileStore) -> DecodedStore:
    """-> the pixels, from the cache; decoded now, by this process alone where several run, if the cache has none"""
    path = cache_dir("images") / f"{content_key('decoded', files.digest())}.npy"
    return DecodedStore(cached(path, lambda work: _decode_all(files, work)), files)


def _decode_all(files: FileStore, path: Path) -> None:
    first = files.image(0).shape
    pixels = table(path, np.uint8, (len(files), *first))

    def put(row: int) -> None:
        image = files.image(row)
        if image.shape != first:
            raise _varying(files.root / files.names[row], image.shape, first)
        pixels[row] = image

    for _ in _in_parallel(put, len(files), files.workers):
        pass
    pixels.flush()


def unreadable(files: FileStore) -> list[int]:
    """-> the rows whose files cannot be decoded, remembered in the cache; the first few are named on standard error"""
    path = cache_dir("images") / f"{content_key('readable', files.digest())}.json"

    def look(work: Path) -> None:
        good = list(_in_parallel(lambda row: _is_readable(files, row), len(files), files.workers))
        work.write_text(json.dumps([row for row, fine in enumerate(good) if not fine]))

    bad = json.loads(cached(path, look).read_text(encoding="utf-8"))
    for row in bad[:5]:
        print(f"warning: {files.root / files.names[row]} is no readable image: left out", file=sys.stderr)
    if bad:
        print(f"warning: {len(bad)} of {len(files)} files left out", file=sys.stderr)
    return bad


def _is_readable(files: FileStore, row: int) -> bool:
    try:
        decode.decode(files.open(row), files.size)
    except decode.CorruptImage:
        return False
    return True


def _in_parallel(function, count: int, workers: int, what: str = "decoding images") -> Iterator:
    """Results of function(0..count-1) in order, by threads: the decoders release the interpreter's lock."""
    with (
        ThreadPoolExecutor(max(workers, 1)) as pool,
        bars.bar(total=count, desc=what, unit="image", leave=False, disable=count < 4 * CHUNK) as bar,
    ):
        for start in range(0, count, CHUNK):
            stop = min(start + CHUNK, count)
            yield from pool.map(function, range(start, stop))
            bar.update(stop - start)


def decoded_bytes(files: FileStore) -> int:
    """-> bytes of all images, decoded"""
    return len(files) * (int(np.prod(files.image(0).shape)) if files.size is None else 3 * files.size**2)


def _code() -> tuple[str, ...]:
    """-> what decodes files and tells them apart: our own code and, of Pillow, the decoders that it was built with"""
    ours = code.maker(("data.images.decode", "data.images.content"), ("data.images.",), ("pillow", "numpy"))
    return ours, *(str(features.version(name)) for name in ("jpg", "libjpeg_turbo", "jpg_2000", "zlib", "libtiff", "webp", "avif"))


def _lost(path: Path, error: OSError) -> InputError:
    return InputError(f"{path} cannot be read ({error.strerror}): restore it or take it off the list")


def _varying(path: Path, shape: tuple[int, ...], first: tuple[int, ...]) -> InputError:
    return InputError(
        f"{path} has {shape[1]}x{shape[0]} pixels where the first image has {first[1]}x{first[0]}: "
        "bring all to one size with stream.image_size=N"
    )
