"""What the sources share: finding and fetching a data set's folder, listing its images, class names in words."""

import functools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.config import StreamConfig
from data.errors import CONTROL, InputError
from data.images.intake import Tree, account
from data.images.lists import listed_mask
from data.images.store import FileStore
from data.source import Source, Split, divided
from data.sources.download import fetch

UNSEEN = frozenset("\u200b\u2060\ufeff")  # spaces without width, which stay behind when a name is copied from a page
WORDS = Path(__file__).parents[1] / "sources" / "imagenet_words.txt"


class Origin(NamedTuple):
    """Where a data set comes from."""

    folder: str  # the folder that its archive unpacks to
    url: str  # of the archive, or of the page that leads to it
    md5: str | None = None  # of the archive; None where it cannot be fetched without a person
    marks: tuple[str, ...] = ()  # patterns of files or folders in it, alternatives parted by |, by which it is known under any name


def root_folder(config: StreamConfig, what: str) -> Path:
    """-> stream.root. Errors: InputError, which says `what` it should hold, where it is not set or no folder."""
    if config.root is None:
        raise InputError(f"stream.root is not set: name the folder that holds {what}")
    root = Path(config.root).expanduser()
    _check_unpacked(root)
    if not root.is_dir():
        raise InputError(f"stream.root={config.root} is no folder: name the one that holds {what}")
    return root


def _check_unpacked(root: Path) -> None:
    """Errors: InputError for a file, most often the archive that holds the folder."""
    if root.is_file():
        raise InputError(f"stream.root={root} is a file and no folder: name the folder that holds the data, unpacked if this is an archive")


def find_folder(config: StreamConfig, origin: Origin) -> Path:
    """-> the data set's folder: stream.root, or the one around it, or below it, that is known by its name or its marks

    Fetched first where the user asked for it. Errors: InputError where there is none, or several.
    """
    if config.root is None:
        raise InputError(f"stream.root is not set: name the folder that holds {origin.folder}/ ({origin.url})")
    root = Path(config.root).expanduser()
    _check_unpacked(root)
    for places in _places(root, origin.folder):
        found = [place for place in places if _marked(place, origin.marks)]
        if len(found) > 1:
            raise InputError(f"{found[0]} and {found[1]} both look like {origin.folder}: set stream.root to the one to use")
        if found:
            return found[0]
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


def _marked(place: Path, marks: tuple[str, ...]) -> bool:
    return bool(marks) and all(any(next(place.glob(one), None) for one in mark.split("|")) for mark in marks)


def _places(root: Path, folder: str) -> Iterator[list[Path]]:
    """-> where a data set may lie, nearest first; of the places in one list none is nearer than the others"""
    if not root.is_dir():
        return
    yield [root / folder]
    yield [root]
    yield [root.resolve().parent]
    children = _visible(root)
    yield children
    yield [grandchild for child in children for grandchild in _visible(child)]


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted(Path(entry.path) for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    except OSError:  # somebody else's
        return []


def need(path: Path) -> Path:
    """-> the path. Errors: InputError where it is missing."""
    if not path.exists():
        raise InputError(f"{path} is missing: the data set is incomplete, unpack it again")
    return path


def class_folders(tree: Tree, folder: str, classes: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """-> the images below <folder>/<class> for each class, in that order, and their labels int64 [N]. folder: '' is the root"""
    number = {name: label for label, name in enumerate(classes)}
    files: list[list[str]] = [[] for _ in classes]
    for name in tree.below(folder):
        inner = name[len(folder) + 1 :] if folder else name
        label = number.get(inner.partition("/")[0]) if "/" in inner else None
        if label is not None:
            files[label].append(name)
    return [name for names in files for name in names], np.repeat(np.arange(len(classes)), [len(names) for names in files])


def present(tree: Tree, names: Sequence[str], origin: str) -> list[str]:
    """-> the names. Errors: InputError where a file that a list of the data set names is not there."""
    lost = sorted(set(names) - set(tree.images))
    if lost:
        raise InputError(f"{origin} names {len(lost)} images that {tree.root} lacks, {lost[0]} among them: unpack the data set again")
    return list(names)


def two_each(labels: np.ndarray, names: Sequence[str]) -> None:
    """Errors: InputError for a class with one image, of which no split can be made"""
    alone = np.flatnonzero(np.bincount(labels, minlength=len(names)) == 1)
    if len(alone):
        raise InputError(f"class '{names[alone[0]]}' has one image, where training and test need one each: add images or remove the class")


def check_listed(test_list: str, held: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> None:
    """Errors: InputError for a class of whose images the user's list names none, or all. held: bool [N]; labels: int64 [N]"""
    for label, name in enumerate(names):
        named, count = int(held[labels == label].sum()), int((labels == label).sum())
        if named in (0, count) and count:
            what = "none" if named == 0 else "all"
            raise InputError(f"stream.test_list={test_list} names {what} of the {count} images of class '{name}': name some of them only")


def accounted(source: Source, tree: Tree, notes: Sequence[str] = ()) -> Source:
    """-> the source with the account of what was read of the folder and what was not"""
    told = account(tree, source.train.images.names, source.test.images.names, len(source.class_names), notes)
    return replace(source, intake=told)


def file_split(root: Path, names: Sequence[str], labels: Sequence[int] | np.ndarray, config: StreamConfig, domains=None) -> Split:
    if config.image_size is not None and config.image_size < 1:
        raise InputError(f"stream.image_size={config.image_size} must be at least 1 pixel, or null")
    files = FileStore(root, list(names), config.image_size, config.workers)
    return Split(files, np.asarray(labels, dtype=np.int64), None if domains is None else np.asarray(domains, dtype=np.int64))


def cut(
    name: str, version: int, root: Path, files: list[str], labels: np.ndarray, class_names: Sequence[str], config: StreamConfig
) -> Source:
    """-> a source without an official split: the user's test list, else the seeded stratified 80/20 split"""
    whole, held = file_split(root, files, labels, config), None
    if config.test_list is None:
        two_each(labels, class_names)
    else:
        held = listed_mask(Path(config.test_list), files)
        check_listed(config.test_list, held, labels, class_names)
    return Source(name, version, *divided(whole, held), tuple(class_names), variant="" if held is None else "list")


def readable(name: str) -> str:
    """'aquarium_fish' -> 'aquarium fish'"""
    return " ".join(name.replace("_", " ").split())


@functools.cache
def imagenet_words() -> dict[str, str]:
    """-> WordNet id -> words, for the 1,000 classes of ILSVRC 2012, sorted by id; all different"""
    return dict(line.split("\t") for line in WORDS.read_text(encoding="utf-8").splitlines())


def words_of(ids: Iterable[str], others: dict[str, str] | None = None) -> tuple[str, ...]:
    """WordNet ids (or plain folder names) -> words, all different

    others: id -> "first lemma, second lemma", asked for ids that ILSVRC does not have. A name taken before is followed by its id.
    Errors: InputError for a name of which nothing can be read, and for two that differ in spaces and underscores alone.
    """
    known, taken, names, plain = imagenet_words(), set(), [], {}
    for one in ids:
        if one not in known and one not in (others or {}):
            other = plain.setdefault(readable(one), one)
            if not readable(one) or CONTROL.search(one) or set(one) & UNSEEN:
                raise InputError(f"the class name {one!r} has no letters, or some that do not show: rename the class")
            if other != one:
                raise InputError(f"the class names {other!r} and {one!r} differ in spaces and underscores alone: join or rename the two")
        words = [known[one]] if one in known else []
        words += [readable(word) for word in (others or {}).get(one, "").split(",") if word.strip()]
        free = [word for word in words or [readable(one)] if word not in taken]
        name = free[0] if free else f"{(words or [readable(one)])[0]} ({one})"
        taken.add(name)
        names.append(name)
    return tuple(names)
