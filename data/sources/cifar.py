"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): 50,000 training and 10,000 test images of 32x32, from the official Python pickles."""

import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from data.caching.cache import file_md5
from data.config import StreamConfig
from data.errors import InputError
from data.images.files import need, readable
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
    """-> the official split; ten classes"""
    from torchvision.datasets import CIFAR10

    folder = _folder(config, CIFAR10)
    return _source("cifar10", folder, CIFAR10, b"labels", b"label_names", config.checksum)


def load_100(config: StreamConfig) -> Source:
    """-> the official split; 100 fine classes, in alphabetical order"""
    from torchvision.datasets import CIFAR100

    folder = _folder(config, CIFAR100)
    return _source("cifar100", folder, CIFAR100, b"fine_labels", b"fine_label_names", config.checksum)


def _folder(config: StreamConfig, official) -> Path:
    from data.images.files import Origin, find_folder

    return find_folder(config, Origin(official.base_folder, official.url, official.tgz_md5))


def _source(name: str, folder: Path, official, labels: bytes, names: bytes, checksum: bool) -> Source:
    splits = [_split(folder, files, labels, checksum) for files in (official.train_list, official.test_list)]
    meta = _read(folder / official.meta["filename"], official.meta["md5"], checksum)
    return Source(name, 1, *splits, tuple(readable(word.decode()) for word in _field(meta, names, folder / official.meta["filename"])))


def _split(folder: Path, files: Sequence[Sequence[str]], labels: bytes, checksum: bool) -> Split:
    pixels, numbers = [], []
    for file, md5 in files:
        record = _read(folder / file, md5, checksum)
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


def _read(path: Path, md5: str, checksum: bool) -> dict:
    if checksum and file_md5(need(path)) != md5:
        raise InputError(f"{path} is not the published file (its md5 differs): unpack it again, or accept it with stream.checksum=false")
    try:
        with need(path).open("rb") as file:
            return _Plain(file, encoding="bytes").load()
    except (pickle.UnpicklingError, EOFError, ValueError, AttributeError, IndexError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no pickle of plain arrays ({error}): unpack the official archive again") from None
