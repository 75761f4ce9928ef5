"""ImageNet-1k (ILSVRC 2012) and ImageNet-100, from `train/<wnid>/` and `val/<wnid>/`; the val images are the test rows."""

from pathlib import Path

from data.config import ImageNetConfig
from data.errors import InputError
from data.images.files import Origin, class_folders, file_split, find_folder, imagenet_words, read_lines, subfolders, words_of
from data.source import Source
from data.split import class_order, short_hash

ORIGIN = Origin("train", "https://image-net.org/challenges/LSVRC/2012/")  # asks for an account, so it cannot be fetched


def load_1k(config: ImageNetConfig) -> Source:
    """-> all 1,000 classes by sorted WordNet id, or those of the user's file in its order"""
    return _load("imagenet1k", config, list(imagenet_words()))


def load_100(config: ImageNetConfig) -> Source:
    """-> the 100 classes of LUCIR and PyCIL: the first 100 of the seed-1993 permutation of the 1,000 sorted ids, in that order"""
    wnids = list(imagenet_words())
    return _load("imagenet100", config, [wnids[label] for label in class_order(1993, 1000)[:100]])


def _load(name: str, config: ImageNetConfig, classes: list[str]) -> Source:
    root = _root(config)
    variant = ""
    if config.classes is not None:
        classes = [line.split()[0] for line in read_lines(Path(config.classes))]
        variant = f"classes{short_hash(classes)}"
    for split in ("train", "val"):
        missing = sorted(set(classes) - set(subfolders(root / split)))
        if missing:
            raise InputError(
                f"{root / split} lacks the folders of {len(missing)} of the {len(classes)} classes, {missing[0]} among them: "
                "unpack each class into a folder named by its WordNet id"
            )
    train, test = (file_split(root, *class_folders(root, split, classes), config) for split in ("train", "val"))
    return Source(name, 1, train, test, words_of(classes), variant=variant)


def _root(config: ImageNetConfig) -> Path:
    """-> the folder that holds train/ and val/"""
    if config.root is not None and Path(config.root).name == "train":
        return Path(config.root).parent
    return find_folder(config, ORIGIN).parent
