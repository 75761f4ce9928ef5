"""The cache folder: what can always be computed again, under keys that name the content."""

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


def cache_dir(kind: str) -> Path:
    """-> the folder for one kind of content, under $CILBENCH_CACHE or ~/.cache/cilbench"""
    root = os.environ.get("CILBENCH_CACHE") or Path.home() / ".cache" / "cilbench"
    folder = Path(root) / kind
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def content_key(*parts: object) -> str:
    """-> 32 hex digits that say what the content was made from"""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


@contextlib.contextmanager
def atomic(path: Path, folder: bool = False) -> Iterator[Path]:
    """Give a temporary name beside `path`, and rename it to `path` when the block ends well; else leave nothing.

    Of two writers of the same content the first wins: `path` is never half-written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{path.name[:80]}.", dir=path.parent))
    inner = work / path.name
    try:
        if folder:
            inner.mkdir()
        yield inner
        sync(inner)
        if folder and path.exists():
            return
        os.replace(inner, path)
        sync(path.parent, deep=False)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def sync(path: Path, deep: bool = True) -> None:
    """Wait until a file, or a folder with all in it, is on the disk, so that a rename never shows what a power cut would lose."""
    for one in [*(path.rglob("*") if deep and path.is_dir() else []), path]:
        handle = os.open(one, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
