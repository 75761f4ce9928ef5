"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): 50,000 training and 10,000 test images of 32x32 pixels.

Any of these under stream.root gives the same stream, since the rows are what their pixels are:

* the official Python pickles, in their folder (as torchvision leaves it) or in stream.root itself;
* `train/<class>/*.png` and `test/<class>/*.png`;
* a data set of the Hugging Face hub (`uoft-cs/cifar100`), or a local copy of it: parquet files, or as `save_to_disk` wrote it.
"""

import pickle
import re
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import torch

from data.caching.cache import file_md5
from data.config import HubConfig, StreamConfig
from data.errors import InputError
from data.images.files import Origin, accounted, class_folders, file_split, find_folder, need, readable
from data.images.intake import survey
from data.source import Source, Split

# What a pickle of arrays, lists and bytes may name; anything else could run code.
ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.numeric", "_frombuffer"),
    ("_codecs", "encode"),
}


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)


def load_10(config: StreamConfig) -> Source:
    """-> the official split; ten classes, in alphabetical order"""
    from torchvision.datasets import CIFAR10

    return _load("cifar10", config, CIFAR10, "label")


def load_100(config: StreamConfig) -> Source:
    """-> the official split; 100 fine classes, in alphabetical order"""
    from torchvision.datasets import CIFAR100

    return _load("cifar100", config, CIFAR100, "fine_label")


def _load(name: str, config: StreamConfig, official, label: str) -> Source:
    """official: torchvision's class, which knows the published files; label: the fine labels, without their plural"""
    if config.root is not None:
        root = Path(config.root).expanduser()
        if (root / official.meta["filename"]).is_file():
            return _pickles(name, root, official, label, config)
        if not (root / official.base_folder).is_dir():
            if all(any(one.is_dir() for one in (root / split).glob("*")) for split in ("train", "test")):
                return _folders(name, root, config)
            if _is_hub(root, config):
                return _hub(name, config, label)
    folder = find_folder(config, Origin(official.base_folder, official.url, official.tgz_md5))
    return _pickles(name, folder, official, label, config)


def _is_hub(root: Path, config: StreamConfig) -> bool:
    """-> is it a copy of a hub's data set, or, where no such path is, the name of one?"""
    if root.is_dir():
        kinds = ("dataset_dict.json", "state.json", "*.parquet", "*/*.parquet")
        return any(next(root.glob(kind), None) is not None for kind in kinds)
    return not config.download and re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(config.root)) is not None


def _pickles(name: str, folder: Path, official, label: str, config: StreamConfig) -> Source:
    train, test = (_split(folder, files, f"{label}s".encode()) for files in (official.train_list, official.test_list))
    if config.shot_list is not None and all(file_md5(need(folder / file)) == md5 for file, md5 in official.train_list):
        train = Split(train.images, train.labels, official=np.arange(len(train.labels)))  # only the published files have this order
    path = folder / official.meta["filename"]
    names = [readable(word.decode()) for word in _field(_read(path), f"{label}_names".encode(), path)]
    return _alphabetical(name, train, test, names)


def _folders(name: str, root: Path, config: StreamConfig) -> Source:
    tree = survey(root)
    classes = sorted({*tree.subfolders("train"), *tree.subfolders("test")})
    train, test = (file_split(root, *class_folders(tree, split, classes), config) for split in ("train", "test"))
    return accounted(_alphabetical(name, train, test, [readable(one) for one in classes]), tree)


def _hub(name: str, config: StreamConfig, label: str) -> Source:
    from data.sources.hub import load

    options = {option.name: getattr(config, option.name) for option in fields(StreamConfig)}
    source = load(HubConfig(**options, label_column=label))
    train, test = (replace(split, official=None) for split in (source.train, source.test))  # whose order nobody published
    return _alphabetical(name, train, test, [readable(one) for one in source.class_names])


def _alphabetical(name: str, train: Split, test: Split, names: Sequence[str]) -> Source:
    """-> the source, its labels numbered by the alphabetical order of their words, as the published ones are"""
    order = sorted(range(len(names)), key=names.__getitem__)
    number = dict(zip(order, range(len(names)), strict=True))
    train, test = (  # a label that is none is left for the checks to name
        replace(split, labels=np.array([number.get(label, label) for label in split.labels.tolist()], dtype=np.int64))
        for split in (train, test)
    )
    return Source(name, 2, train, test, tuple(names[label] for label in order))


def _split(folder: Path, files: Sequence[Sequence[str]], labels: bytes) -> Split:
    pixels, numbers = [], []
    for file, _ in files:
        record = _read(folder / file)
        pixels.append(np.asarray(_field(record, b"data", folder / file), dtype=np.uint8))
        numbers.append(np.asarray(_field(record, labels, folder / file), dtype=np.int64))
    images = np.concatenate(pixels)
    if images.ndim != 2 or images.shape[1] != 3 * 32 * 32:
        raise InputError(f"{folder / files[0][0]} does not hold rows of 3,072 pixels: unpack the official archive again")
    return Split(torch.from_numpy(images.reshape(-1, 3, 32, 32)), np.concatenate(numbers))


def _field(record: dict, key: bytes, path: Path):
    if not isinstance(record, dict) or key not in record:
        raise InputError(f"{path} has no field '{key.decode()}': unpack the official archive again")
    return record[key]


def _read(path: Path) -> dict:
    try:
        with need(path).open("rb") as file:
            return _Plain(file, encoding="bytes").load()
    except (pickle.UnpicklingError, EOFError, ValueError, AttributeError, IndexError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no pickle of plain arrays ({error}): unpack the official archive again") from None
