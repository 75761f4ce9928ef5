"""mini-ImageNet as few-shot class-incremental learning uses it (Zhang et al. 2021, CEC): 100 classes, 500 + 100 images each.

Read by `split/{train,test}.csv` (filename, wnid) of that release. The images may lie in `images/`, or in folders of their own below it.
"""

import csv
import io
from pathlib import Path

from data.config import StreamConfig
from data.errors import InputError
from data.images.files import Origin, accounted, file_split, find_folder, need, words_of
from data.images.intake import survey
from data.images.lists import listed_rows, read_lines
from data.source import Source

ORIGIN = Origin("miniimagenet", "https://github.com/icoz69/CEC-CVPR2021", None, ("split/train.csv", "split/test.csv"))


def load(config: StreamConfig) -> Source:
    """-> the release's split; classes in the order in which train.csv first names them, as there"""
    tree = survey(find_folder(config, ORIGIN))
    root = tree.root
    train, test = (_rows(root / "split" / f"{split}.csv") for split in ("train", "test"))
    classes = list(dict.fromkeys(wnid for _, wnid in train))
    number = {wnid: label for label, wnid in enumerate(classes)}
    strange = sorted({wnid for _, wnid in test} - set(number))
    if strange:
        raise InputError(f"class '{strange[0]}' of {root / 'split' / 'test.csv'} is not in train.csv: use the two files of one release")
    splits = []
    for split, rows in (("train", train), ("test", test)):
        at = listed_rows(root / "split" / f"{split}.csv", [file for file, _ in rows], tree.images, "image")
        splits.append(file_split(root, [tree.images[row] for row in at], [number[wnid] for _, wnid in rows], config))
    return accounted(Source("mini_imagenet", 2, *splits, words_of(classes)), tree)


def _rows(path: Path) -> list[tuple[str, str]]:
    rows = list(csv.DictReader(io.StringIO("\n".join(read_lines(need(path))))))
    if any(not row.get("filename") or not row.get("label") for row in rows):
        raise InputError(f"{path} has a row without filename and label: use the files of the release")
    return [(row["filename"], row["label"]) for row in rows]
