"""CUB-200-2011 (Wah et al. 2011): 11,788 photos of 200 bird species, with the official split.

stream.root is CUB_200_2011/, under any name, the folder that holds it, or its images/.
"""

from pathlib import Path

import numpy as np

from data.config import StreamConfig
from data.errors import InputError
from data.images.files import Origin, accounted, file_split, find_folder, present, readable
from data.images.intake import survey
from data.images.lists import read_lines
from data.source import Source

ORIGIN = Origin(
    "CUB_200_2011",
    "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
    "97eceeb196236b17998738112f37df78",
    ("images", "images.txt", "image_class_labels.txt"),
)


def load(config: StreamConfig) -> Source:
    """-> 5,994 training and 5,794 test rows"""
    root = find_folder(config, ORIGIN)
    files, labels = _table(root / "images.txt"), _table(root / "image_class_labels.txt")
    training, classes = _table(root / "train_test_split.txt"), _table(root / "classes.txt")
    names = tuple(readable(name.split(".", 1)[-1]) for name in classes.values())  # "001.Black_footed_Albatross"
    number = {one: label for label, one in enumerate(classes)}
    lost = sorted(one for one in {*files, *labels, *training} if one not in files or one not in training or labels.get(one) not in number)
    if lost:
        raise InputError(f"{root} gives no file, no class or no split for image {lost[0]}: unpack the archive again")
    tree, splits = survey(root), []
    for flag in ("1", "0"):
        chosen = [one for one in files if training[one] == flag]
        named = present(tree, [f"images/{files[one]}" for one in chosen], "images.txt")
        splits.append(file_split(root, named, np.array([number[labels[one]] for one in chosen]), config))
    return accounted(Source("cub200", 2, *splits, names), tree)


def _table(path: Path) -> dict[str, str]:
    table = dict(line.partition(" ")[::2] for line in read_lines(path))
    if not all(table.values()):
        raise InputError(f"{path} has a line without two words: unpack the archive again")
    return table
