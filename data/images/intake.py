"""What lies in a data set's folder: each file is an image to be read, or counted under the reason why it is left out."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from data.errors import InputError
from data.images.decode import is_image

# What network disks, operating systems and notebooks put beside the images: thumbnails, waste baskets, halves of files.
HELPERS = frozenset(
    ("@eadir", "@recycle", "#recycle", "#snapshot", "$recycle.bin", "__macosx", "__pycache__", "lost+found", "system volume information")
    + ("@recently-snapshot", ".appledouble", "thumbs.db", "ehthumbs.db", "desktop.ini")
)
HELPER, HIDDEN = "in helper folders of disks and systems", "that are hidden"
NOWHERE, CIRCLE = "links that lead nowhere", "links that lead in a circle"
UNREADABLE = "that cannot be decoded, as stream.corrupt=skip asks"
FOREIGN = "of kinds that are not read: convert them to PNG"
# Pictures all the same: of phones, cameras, designers, studios and hospitals.
OTHERS = frozenset((".heic", ".heif", ".jxl", ".svg", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".exr", ".hdr", ".dcm"))
UNUSED, LOOSE, UNNAMED = "in folders that are not used", "beside the folders of the classes", "that no list of the data set names"


class Kind(NamedTuple):
    """One reason to leave files out."""

    count: int
    first: str  # an example: the first of them, relative to the folder


@dataclass
class Tree:
    """A folder as it was found. Paths are relative to `root`, with forward slashes."""

    root: Path
    images: list[str] = field(default_factory=list)  # sorted; those that may be read
    folders: list[str] = field(default_factory=list)  # all but helpers and hidden ones, also those without images
    left: dict[str, list[str]] = field(default_factory=dict)  # reason -> images and links that are not read
    others: list[str] = field(default_factory=list)  # files that are no images

    def below(self, folder: str) -> list[str]:
        """-> the images below a folder ('' = all), sorted"""
        return [name for name in self.images if name.startswith(f"{folder}/")] if folder else self.images

    def subfolders(self, folder: str = "") -> list[str]:
        """-> the names of the folders in a folder, sorted, whether or not they hold images"""
        start = f"{folder}/" if folder else ""
        return sorted(name[len(start) :] for name in self.folders if name.startswith(start) and "/" not in name[len(start) :])


@dataclass(frozen=True)
class Account:
    """What was read of a data set's files, and what was not."""

    train: int  # images
    test: int
    classes: int
    endings: dict[str, int]  # of the images read, most frequent first
    left_out: dict[str, Kind]  # images and links that were not read, by reason
    others: dict[str, int]  # files that are no images, by ending
    notes: tuple[str, ...] = ()  # what was decided where it is not plain to see

    def lines(self) -> Iterator[str]:
        """-> what to tell the user: one line where nothing was left out, else one more for each reason"""
        yield f"{self.train:,} training and {self.test:,} test images of {self.classes:,} classes{_counts(self.endings)}"
        yield from self.notes
        for reason, kind in self.left_out.items():
            what = reason if reason in (NOWHERE, CIRCLE) else f"images {reason}"
            yield f"left out: {kind.count:,} {what} ({'first: ' if kind.count > 1 else ''}{kind.first})"
        if self.others:
            yield f"left out: {sum(self.others.values()):,} files that are no images{_counts(self.others)}"

    def plain(self) -> dict[str, Any]:
        """-> as it stands in the record"""
        return {**asdict(self), "left_out": {reason: kind._asdict() for reason, kind in self.left_out.items()}, "notes": list(self.notes)}


def _counts(endings: dict[str, int], most: int = 6) -> str:
    said = [f"{ending or 'no ending'} {count:,}" for ending, count in list(endings.items())[:most]]
    return f" ({', '.join(said)}{', …' if len(endings) > most else ''})" if said else ""


def survey(root: Path) -> Tree:
    """-> everything below a folder. Links are followed, but not in a circle. Errors: InputError for what cannot be opened or named."""
    tree = Tree(root)
    real = os.path.realpath(root)
    _visit(tree, str(root), "", None, (real,))
    tree.images.sort()
    tree.folders.sort()
    return tree


def _visit(tree: Tree, place: str, base: str, reason: str | None, chain: tuple[str, ...]) -> None:
    """chain: the real paths of this folder and of those above it, the last its own"""
    try:
        with os.scandir(place) as opened:
            entries = sorted(opened, key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"{printable(place)} cannot be opened ({error.strerror}): give it back its rights, or remove it") from None
    for entry in entries:
        name = f"{base}{entry.name}"
        why = reason or _reason(entry.name)
        if entry.is_symlink() and not os.path.exists(entry.path):
            tree.left.setdefault(NOWHERE, []).append(name)
        elif entry.is_dir():
            real = os.path.realpath(entry.path) if entry.is_symlink() else f"{chain[-1]}/{entry.name}"
            if any(above == real or above.startswith(f"{real}/") for above in chain):
                tree.left.setdefault(CIRCLE, []).append(name)
                continue
            if why is None:
                tree.folders.append(named(name))
            _visit(tree, entry.path, f"{name}/", why, (*chain, real))
        elif not entry.is_file() or not is_image(entry.path):
            if entry.is_file() and os.path.splitext(name)[1].lower() in OTHERS:
                tree.left.setdefault(why or FOREIGN, []).append(name)
            else:
                tree.others.append(name)
        elif why is not None:
            tree.left.setdefault(why, []).append(name)
        else:
            tree.images.append(named(name))


def _reason(name: str) -> str | None:
    if name.casefold() in HELPERS:
        return HELPER
    return HIDDEN if name.startswith(".") else None


def printable(name: str) -> str:
    """-> a file name whose bytes are no text, in a form that can be printed"""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def named(name: str) -> str:
    """-> the name. Errors: InputError where it is no UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InputError(
            f"the file name '{printable(name)}' is not written in UTF-8: rename it, for instance with the tool convmv"
        ) from None
    return name


def account(tree: Tree, train: Sequence[str], test: Sequence[str], classes: int, notes: Sequence[str] = ()) -> Account:
    """-> what was read and what was not. train, test: the images of either split, as the tree names them"""
    used = set(train) | set(test)
    homes = {name.rpartition("/")[0] for name in used}
    above = {"/".join(parts[:depth]) for parts in (home.split("/") for home in homes) for depth in range(len(parts))}
    left = {reason: list(names) for reason, names in tree.left.items()}
    for name in tree.images:
        if name not in used:
            home = name.rpartition("/")[0]
            left.setdefault(UNNAMED if home in homes else LOOSE if home in above else UNUSED, []).append(name)
    return Account(
        len(train),
        len(test),
        classes,
        _endings([*train, *test]),
        {reason: Kind(len(names), printable(names[0])) for reason, names in sorted(left.items())},
        _endings(map(printable, tree.others)),
        tuple(notes),
    )


def unreadable(told: Account, train: Sequence[str], test: Sequence[str]) -> Account:
    """-> the account where these images of either split turned out to be unreadable and were left out"""
    names = [*train, *test]
    if not names:
        return told
    endings = Counter(told.endings)
    endings.subtract(_endings(names))
    left = {**told.left_out, UNREADABLE: Kind(len(names), printable(names[0]))}
    return replace(told, train=told.train - len(train), test=told.test - len(test), endings=dict(+endings), left_out=left)


def _endings(names: Iterable[str]) -> dict[str, int]:
    return dict(Counter(os.path.splitext(name)[1].lower() for name in names).most_common())
