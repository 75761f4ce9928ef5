"""DomainNet (Peng et al. 2019): 345 classes in six domains, with the official lists `<domain>_{train,test}.txt`."""

import numpy as np

from data.config import StreamConfig
from data.errors import InputError
from data.images.files import file_split, need, read_lines, readable, root_folder
from data.source import Source, Split

DOMAINS = ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")


def load(config: StreamConfig) -> Source:
    """-> the official split; class and domain of each row from its list"""
    root = root_folder(config, "the six domain folders and their lists (https://ai.bu.edu/M3SDA/)")
    names: dict[int, str] = {}
    splits = [_split(root, split, names, config) for split in ("train", "test")]
    lacking = sorted(set(range(max(names) + 1)) - set(names))
    if lacking:
        raise InputError(f"the lists in {root} name no image of class {lacking[0]}: fetch them again")
    return Source("domainnet", 1, *splits, tuple(names[label] for label in sorted(names)), DOMAINS)


def _split(root, split: str, names: dict[int, str], config: StreamConfig) -> Split:
    files, labels, domains = [], [], []
    for number, domain in enumerate(DOMAINS):
        path = need(root / f"{domain}_{split}.txt")
        for line in read_lines(path):
            file, _, label = line.rpartition(" ")
            if not label.isdigit() or file.count("/") < 2:
                raise InputError(f"{path} has the line '{line}' where '<domain>/<class>/<file> <label>' is read: fetch it again")
            names.setdefault(int(label), readable(file.split("/")[1]))
            files.append(file)
            labels.append(int(label))
            domains.append(number)
    return file_split(root, files, labels, config, np.array(domains))
