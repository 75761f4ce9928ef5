"""From the paths of images to splits, classes and domains: read where only one reading is possible, else asked for in one sentence.

<split>/<class>/**      the names of splits that the field uses, in any case, alone or in seg_train, train_set, train2017
<class>/**              without a split; also below one more folder, and one more between a split and its classes
<domain>/<class>/**     asked for, as <class>/<view>/** looks the same
"""

import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from data.errors import InputError
from data.images.intake import Tree, printable

ROLES = {"train": "train training trainset trn", "test": "test testing testset eval evaluation", "val": "val valid validation valset dev"}
ROLE_OF = {word: role for role, words in ROLES.items() for word in words.split()}
PACKED = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")
SPACING = re.compile(r"[\s_-]+")
COMPANIONS = frozenset(("mask", "masks", "thumbs", "thumbnail", "thumbnails", "segmentation", "annotations", "depth"))
FILLERS = frozenset(("", "set", "split", "data", "dataset", "images", "imgs", "folder"))


class Named(NamedTuple):
    """An image with what its folders say of it."""

    file: str
    label: str  # the name of its class, as its folder has it
    domain: str | None
    home: str  # the folder of its class


class Reading(NamedTuple):
    """The images of each split; `test` is None where the folder has no split of its own."""

    train: list[Named]
    test: list[Named] | None
    notes: list[str]


@dataclass
class Node:
    """A folder that holds images, somewhere below it."""

    path: str = ""
    files: list[str] = field(default_factory=list)  # images in it, whole paths
    folders: dict[str, "Node"] = field(default_factory=dict)

    def all(self) -> Iterator[str]:
        yield from self.files
        for folder in self.folders.values():
            yield from folder.all()


def nest(images: Sequence[str]) -> Node:
    """-> the folders that hold these images, as a tree"""
    top = Node()
    for name in images:
        node = top
        for part in name.split("/")[:-1]:
            node = node.folders.setdefault(part, Node(f"{node.path}/{part}".lstrip("/")))
        node.files.append(name)
    return top


def role(name: str) -> tuple[str | None, tuple[str, ...]]:
    """'Training_set' -> ("train", ()), 'seg_test' -> ("test", ("seg",)): the split that a name says, and what else it says"""
    words = [word for word in re.split(r"[^a-z]+", name.casefold()) if word not in FILLERS]
    said = [ROLE_OF[word] for word in words if word in ROLE_OF]
    return (said[0] if len(said) == 1 else None), tuple(word for word in words if word not in ROLE_OF)


def roles(names: Sequence[str]) -> dict[str, list[str]]:
    """-> role -> the names that say it: plainly, or as seg_train beside seg_test does"""
    found: dict[tuple[str, ...], dict[str, list[str]]] = {}
    for name in names:
        one, rest = role(name)
        if one:
            found.setdefault(rest, {}).setdefault(one, []).append(name)
    pairs = {rest: said for rest, said in found.items() if not rest or ("train" in said and len(said) > 1)}
    return pairs.get((), {}) if () in pairs else next(iter(pairs.values()), {}) if len(pairs) == 1 else {}


def read(tree: Tree, options: Any) -> Reading:
    """-> the images by split and class. options: a `data.config.FolderConfig`. Errors: InputError for several readings, or none"""
    root, top = tree.root, nest(tree.images)
    if not tree.images:
        packed = next((name for name in tree.others if name.lower().endswith(PACKED)), None)
        remedy = f"unpack {printable(packed)}" if packed else "put the images of each class in a folder of its own"
        raise InputError(f"{root} holds no <class>/<image>: {remedy}")
    if options.train is not None or options.test is not None:
        return _chosen(root, top, options)
    _check_split_above(root)
    node, notes = peel(top), []
    if any(role(part) in (("test", ()), ("val", ())) for part in node.path.split("/")):
        raise InputError(f"{root} holds {node.path}/ and no training folder: name it with stream.train=FOLDER")
    if node is not top:
        notes.append(f"classes are the folders of {node.path}/")
    found = _split_folders(root, node)
    if not found:
        return Reading(_classes(root, node, options), None, notes)
    train, test = (_classes(root, node.folders[found[name]], options) for name in ("train", "test"))
    return Reading(train, test, [f"splits: {found['train']}/ to train, {found['test']}/ to test"])


def peel(node: Node) -> Node:
    """-> the folder itself, or below it the first that holds more than one folder (or none): Animals/ in pets/Animals/{cat,dog}"""
    while len(node.folders) == 1:
        (child,) = node.folders.values()
        if not child.folders or child.files:
            break
        node = child
    return node


def _chosen(root: Path, top: Node, options: Any) -> Reading:
    """The folders that the user named."""
    nodes = {
        name: None if given is None else _at(root, top, given, name) for name, given in (("train", options.train), ("test", options.test))
    }
    if nodes["train"] is None:
        raise InputError("stream.test is set and stream.train is not: name the folder of the training images, too")
    if nodes["test"] is not None:
        _check_apart(*(f"{peel(nodes[name]).path}/".lstrip("/") for name in ("train", "test")))
    train = _classes(root, nodes["train"], options)
    return Reading(train, None if nodes["test"] is None else _classes(root, nodes["test"], options), [])


def _check_apart(train: str, test: str) -> None:
    """Errors: InputError for one folder, or one in the other, whose images would be of both splits"""
    if train == test:
        raise InputError("stream.train and stream.test name one folder: leave stream.test out to cut it by a seed")
    if train.startswith(test) or test.startswith(train):
        raise InputError("of stream.train and stream.test one lies in the other, whose images would be of both: name folders side by side")


def _at(root: Path, top: Node, given: str, option: str) -> Node:
    place = os.path.normpath(os.path.relpath(Path(given).expanduser(), root) if os.path.isabs(os.path.expanduser(given)) else given)
    node = top
    for part in [] if place == "." else place.split(os.sep):
        if part not in node.folders:
            here = ", ".join(sorted(node.folders)[:8]) or "no folder"
            raise InputError(f"stream.{option}={given} names no folder with images below {root}, which holds {here}: correct it")
        node = node.folders[part]
    return node


def _check_split_above(root: Path) -> None:
    """Errors: InputError where the root is one split of several that lie beside each other."""
    place = root.resolve()
    said, rest = role(place.name)
    if said is None or rest or not os.access(place.parent, os.R_OK):
        return
    others = {name: role(name) for name in sorted(os.listdir(place.parent)) if (place.parent / name).is_dir()}
    beside = [name for name, (one, more) in others.items() if one not in (None, said) and not more]
    if beside and "train" in (said, *(others[name][0] for name in beside)):
        raise InputError(
            f"{root} is one split beside {', '.join(f'{name}/' for name in beside)}: set stream.root={place.parent}, "
            "or cut this folder alone with stream.train=."
        )


def _split_folders(root: Path, node: Node) -> dict[str, str]:
    """-> {"train": folder, "test": folder}, empty where there are no splits. Errors: InputError"""
    said = roles(list(node.folders))
    deep = {name: [one for one in names if len(peel(node.folders[one]).folders) > 1] for name, names in said.items()}
    deep = {name: names for name, names in deep.items() if names}
    here = f"{root}/{node.path}".rstrip("/")
    folders = ", ".join(sorted(node.folders))
    if "train" in deep and len(deep) > 1:
        tests = deep.get("test") or deep["val"]
        if len(deep["train"]) > 1 or len(tests) > 1:
            raise InputError(f"{here} holds {folders}, of which several are the same split: choose with stream.train= and stream.test=")
        return {"train": deep["train"][0], "test": tests[0]}
    if not said or (not deep and not all(any(one in names for names in said.values()) for one in node.folders)):
        return {}
    if not deep and all(node.folders[one].files for names in said.values() for one in names):
        raise InputError(f"{here} holds {folders}, with images and no folder for each class: put each class's images in <split>/<class>/")
    raise InputError(
        f"{here} holds {folders}: name the folders of the splits with stream.train= (and stream.test=, where there is one), "
        "or set stream.train=. if they are classes"
    )


def _classes(root: Path, node: Node, options: Any) -> list[Named]:
    """-> the images below a folder by class: its folders', or those one level below"""
    node = node if options.class_level else peel(node)
    here = f"{root}/{node.path}".rstrip("/")
    if not node.folders:
        above = Path(here).resolve().parent
        raise InputError(
            f"{here} holds images and no folder for each class: put each class's images in a folder of its own, "
            f"or set stream.root={above} if {Path(here).resolve().name} is one of the classes"
        )
    level = options.class_level or (2 if options.scenario == "domain" else _level(here, node))
    found = []
    for name, kid in sorted(node.folders.items()):
        if level == 1:
            found += [Named(file, name, None, kid.path) for file in sorted(kid.all())]
        for label, below in sorted(kid.folders.items()) if level == 2 else ():
            found += [Named(file, label, name, below.path) for file in sorted(below.all())]
    _check_spelling(here, sorted({one.label for one in found}))
    if not found:
        raise InputError(f"{here} holds no folders in its folders, where stream.class_level=2 or stream.scenario=domain reads the classes")
    return found


def _level(here: str, node: Node) -> int:
    """-> 1 where the folders are the classes. Errors: InputError where those below them may be"""
    kids = node.folders
    below = {name for kid in kids.values() for name in kid.folders}
    groups = [kid.path for kid in kids.values() if not kid.files and len(kid.folders) > 1]
    if groups and any(not kid.folders for kid in kids.values()):  # images/<class>/ beside masks/
        raise InputError(
            f"of the folders of {here}, {_some(groups)} holds folders alone, and others hold images alone: are all of them classes "
            f"(stream.class_level=1), or only the folders in one (stream.train={groups[0]})?"
        )
    _check_companions(here, kids)
    shared = set.intersection(*(set(kid.folders) for kid in kids.values()))
    mixed = groups or len(shared) > 1  # photo/{cat,dog} beside sketch/{cat,dog,cover.png} are no two classes because of the cover
    if not mixed and (any(kid.files for kid in kids.values()) or not any(len(peel(kid).folders) > 1 for kid in kids.values())):
        return 1
    if all(role(name)[0] is not None for name in below):
        raise InputError(
            f"the folders of {here} hold the splits {', '.join(sorted(below))}: put the splits on top, as <split>/<class>/, or use all "
            "images with stream.class_level=1, or set stream.root to one of the folders if each is a data set"
        )
    domains = "domains (stream.scenario=domain), " if shared else ""
    raise InputError(
        f"the folders of {here} ({_some(sorted(kids))}) hold folders in turn ({_some(sorted(below))}): are the upper ones classes "
        f"(stream.class_level=1), {domains}are the lower ones (stream.class_level=2), or only those in one folder (stream.train=FOLDER)?"
    )


def _check_companions(here: str, kids: dict[str, Node]) -> None:
    """Errors: InputError for masks or thumbnails in a folder among the images of a class"""
    odd = next((one for kid in kids.values() if kid.files for name, one in kid.folders.items() if name.casefold() in COMPANIONS), None)
    if odd is not None:
        raise InputError(
            f"{odd.path}/ lies among the images of a class of {here}: move such folders out if they hold something else, "
            "or set stream.class_level=1 if their images are of the class, too"
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def same_name(name: str) -> str:
    """-> what two spellings of one name share: systems write é as one letter or as two"""
    return unicodedata.normalize("NFC", name)


def _check_spelling(here: str, names: list[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        if seen.setdefault(same_name(name), name) != name:
            raise InputError(f"{here} holds two folders '{name}' that differ in how their letters are composed alone: join or rename them")


def check_pairs(root: Path, train: Sequence[Named], test: Sequence[Named]) -> None:
    """Errors: InputError for a class that the two splits spell differently: in case, spaces, hyphens or underscores"""
    one, other = ({same_name(row.label) for row in rows} for rows in (train, test))
    alone = {SPACING.sub("", name.casefold()): name for name in one - other}
    for name in sorted(other - one):
        if (twin := alone.get(SPACING.sub("", name.casefold()))) is not None:
            raise InputError(f"the class {twin!r} of the training images of {root} is {name!r} in the test images: give it one name")
