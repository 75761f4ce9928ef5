"""Tiny-ImageNet-200 (Stanford CS231n): 200 classes of 64x64 images, 500 a class to train; the annotated val images are the test rows.

The val images are read from `val/images/` with `val/val_annotations.txt`, as the archive has them, or from `val/<wnid>/` (also with
`images/` below), where scripts move them.
"""

from collections.abc import Sequence

import numpy as np

from data.config import StreamConfig
from data.errors import InputError
from data.images.files import Origin, accounted, class_folders, file_split, find_folder, present, words_of
from data.images.intake import Tree, survey
from data.images.lists import read_lines
from data.source import Source

ORIGIN = Origin(
    "tiny-imagenet-200",
    "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
    "90528d7ca1a48142e341f4ef8d21d0de",
    ("wnids.txt", "words.txt", "train", "val"),
)


def load(config: StreamConfig) -> Source:
    """-> the official split. Classes in the order of sorted WordNet ids; names are the first free words of words.txt."""
    root = find_folder(config, ORIGIN)
    classes, tree = sorted(read_lines(root / "wnids.txt")), survey(root)
    others = dict(line.split("\t", 1) for line in read_lines(root / "words.txt") if "\t" in line)
    splits = [file_split(root, *pair, config) for pair in (class_folders(tree, "train", classes), _val(tree, classes))]
    return accounted(Source("tiny_imagenet", 2, *splits, words_of(classes, others)), tree)


def _val(tree: Tree, classes: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """-> the files of the val images and their labels"""
    if not tree.below("val/images"):
        files, labels = class_folders(tree, "val", classes)
        if not files:
            raise InputError(f"{tree.root / 'val'} holds no images: unpack the archive again")
        return files, labels
    path, number = tree.root / "val" / "val_annotations.txt", {wnid: label for label, wnid in enumerate(classes)}
    rows = [line.split("\t") for line in read_lines(path)]
    unknown = [row for row in rows if len(row) < 2 or row[1] not in number]
    if unknown:
        raise InputError(f"{path} has a line '{unknown[0][0]} …' without a known class: unpack it again")
    return present(tree, [f"val/images/{row[0]}" for row in rows], path.name), np.array([number[row[1]] for row in rows])
