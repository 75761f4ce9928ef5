"""Tiny-ImageNet-200 (Stanford CS231n): 200 classes of 64x64 images, 500 a class to train; the annotated val images are the test rows."""

import numpy as np

from data.config import StreamConfig
from data.errors import InputError
from data.images.files import Origin, class_folders, file_split, find_folder, read_lines, words_of
from data.source import Source

ORIGIN = Origin("tiny-imagenet-200", "http://cs231n.stanford.edu/tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de")


def load(config: StreamConfig) -> Source:
    """-> the official split. Classes in the order of sorted WordNet ids; names are the first free words of words.txt."""
    root = find_folder(config, ORIGIN)
    classes = sorted(read_lines(root / "wnids.txt"))
    number = {wnid: label for label, wnid in enumerate(classes)}
    train, labels = class_folders(root, "train", classes)
    rows = [line.split("\t") for line in read_lines(root / "val" / "val_annotations.txt")]
    unknown = [row for row in rows if len(row) < 2 or row[1] not in number]
    if unknown:
        raise InputError(f"{root / 'val' / 'val_annotations.txt'} has a line '{unknown[0][0]} …' without a known class: unpack it again")
    others = dict(line.split("\t", 1) for line in read_lines(root / "words.txt") if "\t" in line)
    test = file_split(root, [f"val/images/{row[0]}" for row in rows], np.array([number[row[1]] for row in rows]), config)
    return Source("tiny_imagenet", 1, file_split(root, train, labels, config), test, words_of(classes, others))
