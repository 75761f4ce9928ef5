"""What the sources share: finding and fetching a data set's folder, listing its images, class names in words."""

import functools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.config import StreamConfig
from data.errors import InputError
from data.images.decode import SUFFIXES
from data.images.store import FileStore
from data.source import Source, Split
from data.sources.download import fetch
from data.split import short_hash, stratified

WORDS = Path(__file__).parents[1] / "sources" / "imagenet_words.txt"


class Origin(NamedTuple):
    """Where a data set comes from."""

    folder: str  # the folder that its archive unpacks to
    url: str  # of the archive, or of the page that leads to it
    md5: str | None = None  # of the archive; None where it cannot be fetched without a person


def root_folder(config: StreamConfig, what: str) -> Path:
    """-> stream.root. Errors: InputError, which says `what` it should hold, where it is not set or no folder."""
    if config.root is None:
        raise InputError(f"stream.root is not set: name the folder that holds {what}")
    root = Path(config.root).expanduser()
    if not root.is_dir():
        raise InputError(f"stream.root={config.root} is no folder: name the one that holds {what}")
    return root


def find_folder(config: StreamConfig, origin: Origin) -> Path:
    """-> the data set's folder: stream.root itself, or `origin.folder` below it; fetched first where the user asked for it"""
    if config.root is None:
        raise InputError(f"stream.root is not set: name the folder that holds {origin.folder}/ ({origin.url})")
    root = Path(config.root).expanduser()
    if (root / origin.folder).is_dir():
        return root / origin.folder
    if root.is_dir() and root.name == Path(origin.folder).name:
        return root
    if config.download and origin.md5 is not None:
        fetch(origin, root, config.checksum)
        return root / origin.folder
    if config.download:
        raise InputError(f"{origin.folder} cannot be fetched without a person: get it from {origin.url} and set stream.root to its folder")
    hint = " or fetch it with stream.download=true" if origin.md5 else ""
    raise InputError(f"{root} holds no {origin.folder}/: get it from {origin.url} and set stream.root{hint}")


def need(path: Path) -> Path:
    """-> the path. Errors: InputError where it is missing."""
    if not path.exists():
        raise InputError(f"{path} is missing: the data set is incomplete, unpack it again")
    return path


def read_lines(path: Path) -> list[str]:
    """-> the lines of a text file that are not empty, stripped. Errors: InputError where it cannot be read."""
    try:
        return [line.strip() for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error}): restore it") from None


def subfolders(folder: Path) -> list[str]:
    """-> the names of the folders in a folder, sorted, hidden ones left out"""
    return sorted(entry.name for entry in os.scandir(need(folder)) if entry.is_dir() and not entry.name.startswith("."))


def images_below(folder: Path, root: Path) -> list[str]:
    """-> image files below a folder, nested or not, relative to `root`, with forward slashes, sorted"""
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        base = os.path.relpath(place, root).replace(os.sep, "/")
        found += [f"{base}/{name}" for name in files if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES]
    return sorted(found)


def class_folders(root: Path, folder: str, classes: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """-> files below root/folder/<class> for each class, relative to root, and their labels int64 [N]"""
    names, labels = [], []
    for label, name in enumerate(classes):
        below = root / folder / name
        files = images_below(below, root) if below.is_dir() else []
        names += files
        labels += [label] * len(files)
    return names, np.array(labels, dtype=np.int64)


def file_split(root: Path, names: Sequence[str], labels: Sequence[int] | np.ndarray, config: StreamConfig, domains=None) -> Split:
    files = FileStore(root, list(names), config.image_size, config.workers)
    return Split(files, np.asarray(labels, dtype=np.int64), None if domains is None else np.asarray(domains, dtype=np.int64))


def cut(
    name: str, version: int, root: Path, files: list[str], labels: np.ndarray, class_names: Sequence[str], config: StreamConfig
) -> Source:
    """-> a source without an official split: the user's test list, else the seeded stratified 80/20 split of the sorted files"""
    if config.test_list is None:
        test, variant = stratified(labels), ""
    else:
        test, listed = listed_mask(Path(config.test_list), files)
        variant = f"list{short_hash(listed)}"
    parts = [file_split(root, [files[i] for i in rows], labels[rows], config) for rows in (np.flatnonzero(~test), np.flatnonzero(test))]
    return Source(name, version, *parts, tuple(class_names), variant=variant)


def listed_mask(path: Path, files: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """-> bool [N], the files that a list names by the end of their path, and the list itself. Errors: InputError for an unknown file."""
    lines = [line.split()[0] if len(line.split()) == 2 and line.split()[1].isdigit() else line for line in read_lines(path)]
    depth = max((line.count("/") for line in lines), default=0) + 1
    row_of = {"/".join(name.split("/")[-depth:]): row for row, name in enumerate(files)}
    mask = np.zeros(len(files), dtype=bool)
    for line in lines:
        if line not in row_of:
            raise InputError(f"{path} names '{line}', which is no image of the data set: write paths as <class>/<file>")
        mask[row_of[line]] = True
    return mask, sorted(lines)


def readable(name: str) -> str:
    """'aquarium_fish' -> 'aquarium fish'"""
    return " ".join(name.replace("_", " ").split())


@functools.cache
def imagenet_words() -> dict[str, str]:
    """-> WordNet id -> words, for the 1,000 classes of ILSVRC 2012, sorted by id; all different"""
    return dict(line.split("\t") for line in WORDS.read_text().splitlines())


def words_of(ids: Iterable[str], others: dict[str, str] | None = None) -> tuple[str, ...]:
    """WordNet ids (or plain folder names) -> words, all different

    others: id -> "first lemma, second lemma", asked for ids that ILSVRC does not have. A name taken before is followed by its id.
    """
    known, taken, names = imagenet_words(), set(), []
    for one in ids:
        words = [known[one]] if one in known else []
        words += [readable(word) for word in (others or {}).get(one, "").split(",") if word.strip()]
        free = [word for word in words or [readable(one)] if word not in taken]
        name = free[0] if free else f"{(words or [readable(one)])[0]} ({one})"
        taken.add(name)
        names.append(name)
    return tuple(names)
