"""mini-ImageNet as few-shot class-incremental learning uses it (Zhang et al. 2021, CEC): 100 classes, 500 + 100 images each.

Layout of that release: `miniimagenet/images/*.jpg` and `miniimagenet/split/{train,test}.csv` (filename, wnid).
"""

import csv
from pathlib import Path

from data.config import StreamConfig
from data.errors import InputError
from data.images.files import Origin, file_split, find_folder, need, words_of
from data.source import Source

ORIGIN = Origin("miniimagenet", "https://github.com/icoz69/CEC-CVPR2021")


def load(config: StreamConfig) -> Source:
    """-> the release's split; classes in the order in which train.csv first names them, as there"""
    root = find_folder(config, ORIGIN)
    train, test = (_rows(root / "split" / f"{split}.csv") for split in ("train", "test"))
    classes = list(dict.fromkeys(wnid for _, wnid in train))
    number = {wnid: label for label, wnid in enumerate(classes)}
    strange = sorted({wnid for _, wnid in test} - set(number))
    if strange:
        raise InputError(f"class '{strange[0]}' of {root / 'split' / 'test.csv'} is not in train.csv: use the two files of one release")
    splits = [file_split(root, [f"images/{file}" for file, _ in rows], [number[w] for _, w in rows], config) for rows in (train, test)]
    return Source("mini_imagenet", 1, *splits, words_of(classes))


def _rows(path: Path) -> list[tuple[str, str]]:
    with need(path).open(newline="") as file:
        rows = list(csv.DictReader(file))
    if any(not row.get("filename") or not row.get("label") for row in rows):
        raise InputError(f"{path} has a row without filename and label: use the files of the release")
    return [(row["filename"], row["label"]) for row in rows]
