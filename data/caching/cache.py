"""The cache folder: what can always be computed again, under keys that name the content."""

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from data.errors import InputError


def cache_root() -> Path:
    """-> $CILBENCH_CACHE or ~/.cache/cilbench"""
    return Path(os.environ.get("CILBENCH_CACHE") or "~/.cache/cilbench").expanduser()


def cache_dir(kind: str) -> Path:
    """-> the folder for one kind of content. Errors: InputError where it cannot be made."""
    folder = cache_root() / kind
    with taking(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def taking(folder: Path) -> Iterator[None]:
    """Errors: InputError where the disk does not take what the block writes into the cache."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"the cache folder {folder} does not take what is written ({error.strerror}): free room, also with `cilbench cache clear`, "
            "or name a folder on another disk in the environment variable CILBENCH_CACHE"
        ) from error


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


def file_md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def table(path: Path, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    """-> a new file of numpy's as a memory map to write into. Its room is taken now: a full disk met later would kill the process."""
    mapped = np.lib.format.open_memmap(path, "w+", dtype, shape)
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return mapped


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Let one process of this machine at a time into the block."""
    lock = locked(path)
    try:
        yield
    finally:
        lock.close()


def locked(path: Path, shared: bool = False, wait: bool = True) -> IO[str]:
    """-> the open lock of a path, which ends when it is closed. Errors: BlockingIOError where others hold it and we do not wait."""
    name = path.with_name(f"{path.name}.lock")
    while True:
        lock = name.open("a")
        try:
            fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
            if os.fstat(lock.fileno()).st_ino == name.stat().st_ino:  # else it was removed while we waited
                return lock
        except FileNotFoundError:
            pass
        except BlockingIOError:
            lock.close()
            raise
        lock.close()
