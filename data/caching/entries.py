"""Entries of the cache: sealed with length and checksum, verified when they are opened, made again where they are damaged.

    <cache>/<kind>/<key>       a file or a folder
                   <key>.sum   its seal: bytes and sha256 of every file, and the (size, mtime, inode) that were last hashed
                   .<key>.lock, .<key>.make.lock   held, shared, by every process that uses it; held by the one that makes it

Reading is cheap: an entry up to SMALL is hashed whenever it is opened, a larger one once for each (size, mtime, inode) of its
files, by the process that wrote or first met them. What changes a file in place without a trace in these is not found.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from data.caching.cache import alone, cache_root, file_sha256, locked, sync, taking
from data.errors import InputError, one_of

KINDS = ("features", "images", "contents", "decoders")
SMALL = 64 * 2**20  # bytes
DEFAULT_GIB = 100.0  # of all entries together, unless $CILBENCH_CACHE_GIB says otherwise
ABANDONED = 24 * 3600  # seconds after which what nobody finished may go
# The names that we give, finished or not: nothing else is ever removed, whatever folder CILBENCH_CACHE names.
OURS = re.compile(r"\.?([0-9a-f]{32}\.(npy|json)|[\w.-]+-[0-9a-f]{16})(\.\w+)?")

_held: dict[Path, IO[str]] = {}  # the locks of what this process uses, until it ends


def cached(path: Path, make: Callable[[Path], Any], folder: bool = False) -> Path:
    """-> the entry at `path`, whole. `make(temporary name)` writes it, in one process of this machine, where there is none that is whole.

    Errors: InputError where the disk does not take it, and what `make` raises.
    """
    while not use(path):
        with alone(_lock(path, ".make")):
            if not whole(path):
                with making(path, folder) as work:
                    make(work)
    return path


def use(path: Path) -> bool:
    """-> is there a whole entry at `path`? It is then kept from being removed as long as this process lives."""
    if path not in _held:
        with taking(path.parent):
            _held[path] = locked(_lock(path), shared=True)
    if not whole(path):
        _held.pop(path).close()
        return False
    with contextlib.suppress(OSError):
        os.utime(_seal(path))  # when it was last used
    return True


@contextlib.contextmanager
def making(path: Path, folder: bool = False) -> Iterator[Path]:
    """Give a temporary name, and put what was written there in the place of `path`, sealed. Whoever reads the former goes on with it.

    What the block draws of torch's random numbers is given back: what is drawn afterwards is the same whether an entry was there or not.
    Errors: InputError where the disk does not take it.
    """
    if path.exists():
        print(f"warning: {path} is damaged, or of an older version: it is made again", file=sys.stderr, flush=True)
    with taking(path.parent):
        work = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        inner, seal = work / path.name, work / "seal"
        try:
            if folder:
                inner.mkdir()
            with _undrawn():
                yield inner
            sync(inner)
            seal.write_text(json.dumps({name: [*_stamp(file), file_sha256(file)] for name, file in _files(inner).items()}))
            sync(seal)
            if path.is_dir():
                os.replace(path, work / "former")
            os.replace(inner, path)
            os.replace(seal, _seal(path))
            sync(path.parent, deep=False)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    trim(path)


def _undrawn() -> contextlib.AbstractContextManager:
    import torch  # here, for what only lists entries starts quickly

    return torch.random.fork_rng(devices=[])


def whole(path: Path) -> bool:
    """-> is the entry there, and as it was written?"""
    try:
        seal, files = json.loads(_seal(path).read_text(encoding="utf-8")), _files(path)
        stamps = {name: _stamp(file) for name, file in files.items()}
        if not files or {name: stamp[0] for name, stamp in stamps.items()} != {name: entry[0] for name, entry in seal.items()}:
            return False
        small = sum(size for size, *_ in stamps.values()) <= SMALL
        moved = {name for name, stamp in stamps.items() if stamp != seal[name][:3]}
        if any(file_sha256(files[name]) != seal[name][3] for name in (files if small else moved)):
            return False
        if moved:
            _seal_again(path, {name: [*stamps[name], seal[name][3]] for name in files})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return False
    return True


def digest(path: Path) -> str:
    """-> sha256 over a whole entry, as its seal has it"""
    seal = json.loads(_seal(path).read_text(encoding="utf-8"))
    return hashlib.sha256(repr(sorted((name, entry[3]) for name, entry in seal.items())).encode()).hexdigest()


def making_lock(path: Path) -> IO[str] | None:
    """-> the open lock of the one process that makes an entry, or None where another one holds it: does not wait"""
    with taking(path.parent):
        try:
            return locked(_lock(path, ".make"), wait=False)
        except BlockingIOError:
            return None


def _seal_again(path: Path, seal: dict[str, list]) -> None:
    """An entry was copied, say, and hashed: remember so."""
    work = _seal(path).with_name(f".{path.name}.{os.getpid()}.sum")
    with contextlib.suppress(OSError):
        work.write_text(json.dumps(seal))
        os.replace(work, _seal(path))


def _files(path: Path) -> dict[str, Path]:
    """-> the files of an entry by their names below it; a file has the name ''"""
    if path.is_dir():
        return {str(file.relative_to(path)): file for file in sorted(path.rglob("*")) if file.is_file()}
    return {"": path} if path.exists() else {}


def _stamp(file: Path) -> list[int]:
    stat = file.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ino]


def _seal(path: Path) -> Path:
    return path.with_name(f"{path.name}.sum")


def _lock(path: Path, what: str = "") -> Path:
    return path.with_name(f".{path.name}{what}")


@dataclass(frozen=True)
class Entry:
    """Something in the cache, or the remains of what was never finished."""

    kind: str
    path: Path
    bytes: int
    used: float  # seconds since 1970
    finished: bool


def entries() -> list[Entry]:
    """-> everything in the cache that is ours, least recently used first"""
    found = []
    for kind in KINDS:
        folder = cache_root() / kind
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if not OURS.fullmatch(path.name) or path.suffix in (".sum", ".lock"):
                continue
            with contextlib.suppress(OSError):  # it may go while we look
                stats = [file.stat() for file in _files(path).values()]
                used = _seal(path).stat().st_mtime if _seal(path).exists() else max(one.st_mtime for one in [*stats, path.stat()])
                found.append(Entry(kind, path, sum(one.st_size for one in stats), used, not path.name.startswith(".")))
    return sorted(found, key=lambda entry: entry.used)


def remove(entry: Entry) -> bool:
    """Remove an entry that no process uses, or remains that are a day old. -> is it gone?"""
    if not entry.finished:
        if time.time() - entry.used > ABANDONED:
            shutil.rmtree(entry.path, ignore_errors=True)
        return not entry.path.exists()
    try:
        with contextlib.ExitStack() as stack:
            for lock in (_lock(entry.path), _lock(entry.path, ".make")):
                stack.enter_context(locked(lock, wait=False))
            gone = entry.path.with_name(f".{entry.path.name}.removed")
            os.replace(entry.path, gone)  # at once: half of a folder would look damaged
            for path in (gone, _seal(entry.path), *(entry.path.with_name(f".{entry.path.name}{end}") for end in (".lock", ".make.lock"))):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    except OSError:  # in use, or not ours to remove
        return False
    return True


def clear(kind: str | None = None) -> tuple[list[Entry], list[Entry]]:
    """Remove all entries, or those of one kind. -> those removed; those kept, which are in use"""
    if kind is not None:
        one_of("kind of cache", kind, KINDS)
    chosen = [entry for entry in entries() if kind in (None, entry.kind)]
    gone = [entry for entry in chosen if remove(entry)]
    return gone, [entry for entry in chosen if entry not in gone]


def limit() -> float:
    """-> bytes that all entries may take. Errors: InputError"""
    given = os.environ.get("CILBENCH_CACHE_GIB") or DEFAULT_GIB
    try:
        gib = float(given)
    except ValueError:
        gib = -1.0
    if not gib > 0:
        raise InputError(f"CILBENCH_CACHE_GIB={given} is no size: set the environment variable to a number of GiB above 0")
    return gib * 2**30


def trim(but: Path) -> None:
    """Remove what was not used for longest, `but` one, until the cache keeps to its limit or all that is left is in use."""
    found, allowed = entries(), limit()
    total = sum(entry.bytes for entry in found)
    gone = []
    for entry in found:
        if total > allowed and entry.path != but and remove(entry):
            total -= entry.bytes
            gone.append(entry)
    if gone:
        freed, gib = sum(entry.bytes for entry in gone) / 2**30, allowed / 2**30
        print(f"cache: removed {len(gone)} entries, {freed:.2f} GiB, to keep to CILBENCH_CACHE_GIB={gib:g}", file=sys.stderr)
