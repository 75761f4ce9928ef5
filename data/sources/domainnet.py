"""DomainNet (Peng et al. 2019): 345 classes in six domains, with the official lists `<domain>_{train,test}.txt`.

The lists are read beside the domains' folders, or from one folder there (`splits/`, `image_list/`, …).
"""

from pathlib import Path

import numpy as np

from data.config import StreamConfig
from data.errors import InputError
from data.images.files import accounted, file_split, need, present, readable, root_folder
from data.images.intake import Tree, survey
from data.images.lists import plain, read_lines
from data.source import Source, Split

DOMAINS = ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")


def load(config: StreamConfig) -> Source:
    """-> the official split; class and domain of each row from its list"""
    root = root_folder(config, "the six domain folders and their lists (https://ai.bu.edu/M3SDA/)")
    if not (root / DOMAINS[0]).is_dir() and (root / "domainnet" / DOMAINS[0]).is_dir():
        root = root / "domainnet"
    names: dict[int, str] = {}
    tree, lists = survey(root), _lists(root)
    splits = [_split(tree, lists, split, names, config) for split in ("train", "test")]
    lacking = sorted(set(range(max(names) + 1)) - set(names))
    if lacking:
        raise InputError(f"the lists in {root} name no image of class {lacking[0]}: fetch them again")
    return accounted(Source("domainnet", 2, *splits, tuple(names[label] for label in sorted(names)), DOMAINS), tree)


def _lists(root: Path) -> Path:
    """-> the folder of the lists. Errors: InputError where there are several."""
    found = sorted({path.parent for path in (*root.glob("clipart_train.txt"), *root.glob("*/clipart_train.txt"))})
    if len(found) > 1:
        raise InputError(f"the lists of DomainNet are in {found[0]} and in {found[1]}: keep one of them")
    return found[0] if found else root


def _split(tree: Tree, lists: Path, split: str, names: dict[int, str], config: StreamConfig) -> Split:
    files, labels, domains = [], [], []
    for number, domain in enumerate(DOMAINS):
        path = need(lists / f"{domain}_{split}.txt")
        for line in read_lines(path):
            file, _, label = line.rpartition(" ")
            file = plain(file)
            if not label.isdigit() or file.count("/") < 2:
                raise InputError(f"{path} has the line '{line}' where '<domain>/<class>/<file> <label>' is read: fetch it again")
            names.setdefault(int(label), readable(file.split("/")[1]))
            files.append(file)
            labels.append(int(label))
            domains.append(number)
    return file_split(tree.root, present(tree, files, f"{lists}/*_{split}.txt"), labels, config, np.array(domains))
