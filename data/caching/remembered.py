"""What was read from files, remembered by what the file system says of them, so that a second start reads none of them again.

A table is uint8 [N, 32]: 16 bytes for where and how a file lies (path, size, times of change, inode), 16 for what it holds.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from data.caching.cache import cache_dir, content_key
from data.caching.entries import cached, use

SIZE = 16
FRESH = 2.0  # seconds: a file that changed this recently may change again without a new time
FORMER = 4  # tables of the same folder that are looked through for files that have not changed since


def stamp(name: str, stat: os.stat_result) -> bytes:
    """-> 16 bytes that are others when the file is another, or was written again; never the same twice while it is fresh

    The time of the last change of the inode is among them: no program can set it back, as `cp -p` and `touch` do with `mtime`.
    """
    said = f"{name}\0{stat.st_dev} {stat.st_ino} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"
    now = time.time_ns()
    if abs(now - stat.st_ctime_ns) < FRESH * 1e9:
        said += f" {now}"
    return hashlib.blake2b(said.encode("utf-8", "surrogateescape"), digest_size=SIZE).digest()


def remembered(place: str, stamps: Iterable[bytes], version: object, read: Callable[[list[int]], Iterable[bytes]]) -> np.ndarray:
    """-> uint8 [N, SIZE], what `read(rows)` says of each file: asked only for those whose stamps no table of this place knows

    place: the folder; version: of what `read` gives.
    """
    marks = np.frombuffer(b"".join(stamps), np.uint8).reshape(-1, SIZE)
    prefix = content_key("contents", version, place)[:16]
    path = cache_dir("contents") / f"{prefix}{hashlib.sha256(marks.tobytes()).hexdigest()[:16]}.npy"

    def make(work: Path) -> None:
        known = _former(path.parent, prefix)
        said = [known.get(mark.tobytes()) for mark in marks]
        rows = [row for row, one in enumerate(said) if one is None]
        for row, one in zip(rows, read(rows), strict=True):
            said[row] = one
        np.save(work, np.concatenate([marks, np.frombuffer(b"".join(said), np.uint8).reshape(-1, SIZE)], axis=1))

    return np.ascontiguousarray(np.load(cached(path, make), allow_pickle=False)[:, SIZE:])


def _former(folder: Path, prefix: str) -> dict[bytes, bytes]:
    """-> stamp -> what was said of the file, from the tables of one place that were used last"""
    found = sorted(folder.glob(f"{prefix}*.npy"), key=lambda path: path.stat().st_mtime, reverse=True)[:FORMER]
    known: dict[bytes, bytes] = {}
    for path in found:
        if use(path):
            whole = np.load(path, allow_pickle=False).tobytes()
            known |= {whole[at : at + SIZE]: whole[at + SIZE : at + 2 * SIZE] for at in range(0, len(whole), 2 * SIZE)}
    return known
