"""Any folder of images: `<split>/<class>/**`, `<class>/**` or `<domain>/<class>/**`; what is read of it says data/images/layouts.py.

The key holds the folder's name and 8 digits of what its images are (`data.source.fingerprint`), so that two never share a record.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.config import FolderConfig
from data.errors import InputError, one_of
from data.images.decode import SUFFIXES
from data.images.files import check_listed, file_split, root_folder, two_each, words_of
from data.images.intake import NOWHERE, Tree, account, survey
from data.images.layouts import Named, check_pairs, read, same_name
from data.images.lists import listed_mask
from data.source import Source, Split, divided

NUMBER = re.compile(r"\d+[._ -]+(?=\D)")


def load(config: FolderConfig) -> Source:
    """-> classes in alphabetical (or numeric) order, named by their folders (WordNet ids by their words, 001.Name by what follows)

    Without a test folder: `stream.test_list`, else `data.split.stratified` with seed 0 and share 0.2.
    """
    one_of("stream.sort", config.sort, ("alphabetic", "numeric"))
    root = root_folder(config, "a folder of images for each class")
    tree = survey(root)
    found, variant = read(tree, config), ""
    rows = [*found.train, *(found.test or ())]
    _check_classes(tree, rows)
    check_pairs(root, found.train, found.test or found.train)
    classes = _sorted({same_name(one.label) for one in rows}, config.sort)
    domains = sorted({one.domain for one in rows if one.domain is not None}) if config.scenario == "domain" else []
    if found.test is None or config.test_list is not None:
        held = None
        if config.test_list is not None:
            held, variant = listed_mask(Path(config.test_list), [one.file for one in rows]), "list"
            check_listed(config.test_list, held, _labels(rows, classes), classes)
        else:
            _two_each(rows, config)
        splits = divided(_split(root, rows, classes, domains, config), held)
    else:
        splits = tuple(_split(root, part, classes, domains, config) for part in (found.train, found.test))
    slug = "".join(letter if letter.isalnum() else "_" for letter in root.resolve().name.lower())[:40]
    by_list = variant == "list" and found.test is not None
    if config.sort == "numeric" and classes != sorted(classes):  # another order of arrival, with the same images
        variant = "-".join(filter(None, (variant, "numeric")))
    notes = [
        *(["the split is that of stream.test_list, not that of the folders"] if by_list else found.notes),
        *_order_note(classes, config.sort),
        *(_joined(found.train) if config.scenario == "class" else ()),
    ]
    told = account(tree, *(split.images.names for split in splits), len(classes), notes)
    return Source(f"folder_{slug}", 2, *splits, words_of(_unnumbered(classes)), tuple(domains), variant, intake=told)


def _check_classes(tree: Tree, rows: Sequence[Named]) -> None:
    """Errors: InputError for a folder beside those of the classes that holds no image, and for a link there that leads nowhere"""
    homes = {one.home for one in rows}
    beside = {home.rpartition("/")[0] for home in homes}
    holding = {"/".join(parts[:depth]) for parts in (name.split("/") for name in tree.images) for depth in range(1, len(parts))}
    for name in tree.folders:
        if name.rpartition("/")[0] in beside and name not in holding:
            raise InputError(f"the folder '{name}' of {tree.root} holds no images: remove it or add images")
    for name in tree.left.get(NOWHERE, ()):
        if name.rpartition("/")[0] in beside and os.path.splitext(name)[1].lower() not in SUFFIXES:
            raise InputError(f"the link '{name}' of {tree.root} leads nowhere: restore what it leads to, or remove it")
    names = {same_name(one.label) for one in rows}
    if len(names) == 1:
        raise InputError(f"{tree.root} holds images of one class only, '{names.pop()}': name the folder that holds those of all classes")


def _two_each(rows: Sequence[Named], config: FolderConfig) -> None:
    groups = [(one.label, one.domain if config.scenario == "domain" else None) for one in rows]
    number = {group: at for at, group in enumerate(dict.fromkeys(groups))}
    two_each(np.array([number[group] for group in groups]), ["/".join(filter(None, group[::-1])) for group in number])


def _split(root: Path, rows: Sequence[Named], classes: list[str], domains: list[str], config: FolderConfig) -> Split:
    domain = {name: at for at, name in enumerate(domains)}
    return file_split(
        root, [one.file for one in rows], _labels(rows, classes), config, [domain[one.domain] for one in rows] if domains else None
    )


def _labels(rows: Sequence[Named], classes: list[str]) -> np.ndarray:
    number = {name: at for at, name in enumerate(classes)}
    return np.array([number[same_name(one.label)] for one in rows], dtype=np.int64)


def _sorted(names: set[str], how: str) -> list[str]:
    if how == "alphabetic":
        return sorted(names)

    def key(name: str) -> tuple:  # 1 before 01: the name itself decides between equal numbers
        return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part], len(name), name

    return sorted(names, key=key)


def _joined(rows: Sequence[Named]) -> list[str]:
    """-> a line where folders of one name in several folders are one class"""
    homes: dict[str, set[str]] = {}
    for one in rows:
        homes.setdefault(same_name(one.label), set()).add(one.home)
    several = {name: sorted(places) for name, places in homes.items() if len(places) > 1}
    name = next(iter(several), None)
    return [f"{len(several)} classes lie in several folders, '{name}' in {', '.join(several[name][:3])}"] if several else []


def _order_note(classes: list[str], how: str) -> list[str]:
    """-> a line where the two orders differ, as among 1, 2 and 10"""
    other = "numeric" if how == "alphabetic" else "alphabetic"
    if classes == _sorted(set(classes), other):
        return []
    return [f"classes in {how} order of their folders ({', '.join(classes[:4])}, …); stream.sort={other} is the other one"]


def _unnumbered(classes: list[str]) -> list[str]:
    """['001.Crow', '002.Jay'] -> ['Crow', 'Jay']: a number before every name, with all names different without it, is no part of it"""
    bare = [NUMBER.sub("", name, count=1) if NUMBER.match(name) else name for name in classes]
    numbered = all(NUMBER.match(name) for name in classes)
    return bare if numbered and len(set(bare)) == len(bare) else classes
