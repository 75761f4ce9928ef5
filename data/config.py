"""Options of a stream. Importable without torch, so that `--help` stays fast."""

from dataclasses import dataclass
from typing import Any

from data.options import SET, at_least, between, option


@dataclass
class StreamConfig:
    source: str = "digits"  # data set, a name in data.sources.SOURCES
    root: str | None = None  # folder that holds the data; null where the data need none
    download: bool = False  # fetch the data into the folder where they are missing
    checksum: bool = True  # compare an archive that is fetched with its published checksum
    scenario: str = "class"  # class | domain: what is new in a task, classes or domains
    base: int = at_least(0, 0)  # classes (or domains) in the first task; 0 = as many as `increment`
    increment: Any = at_least(1, 2)  # classes (or domains) in each later task; a list for unequal tasks
    tasks: int | None = at_least(1, None)  # learn only the first so many tasks; null = all; marks the run as limited
    order: Any = "natural"  # of the classes (or domains): natural, an integer seed, icarl, or a list of ids
    shots: int | None = at_least(1, None)  # few-shot: training rows a class in every task but the first; null = all
    shot_seed: int = at_least(0, 0, idle={"shots": (None,), "shot_list": SET})  # of the draw of the few rows
    shot_list: str | None = option(  # file of the few rows, or folder of session_2.txt …: row numbers or file names, one a line
        None, idle={"shots": (None,)}, names="file"
    )
    validation: float = between(0, 1, 0.0, "[)")  # share of the training rows carved out and scored in place of the test rows
    test_list: str | None = option(None, names="file")  # file that names the test images, one a line, in place of the source's own split
    image_size: int | None = between(  # pixels: shorter side resized to it, centre kept; null keeps images that are all of one size
        1, 4096, None
    )
    corrupt: str = "stop"  # stop | skip: what to do about a file that is no readable image
    cache_gib: float = at_least(0, 32.0)  # decoded images up to this size are kept in a cache file; larger sets are decoded while training
    workers: int | None = at_least(0, None)  # processes or threads that decode; null = one for each core, at most 16
    limit: int | None = at_least(1, None)  # at most this many rows a class and split; marks the run as limited


@dataclass
class ImageNetConfig(StreamConfig):
    increment: Any = 100
    image_size: int | None = 224
    classes: str | None = option(None, names="file")  # file of the classes to use, one WordNet id a line; null = the benchmark's own choice


@dataclass
class FolderConfig(StreamConfig):
    train: str | None = None  # folder of the training images, below the root; null = by its name (train, training_set, …)
    test: str | None = None  # folder of the test images; null = by its name (test, else val); without one, a seeded fifth of each class
    class_level: int | None = between(1, 2, None)  # 1: a folder is a class, with all below; 2: its folders are; null = where it is plain
    sort: str = "alphabetic"  # order of the classes' folders: alphabetic (1, 10, 2) | numeric (1, 2, 10)


@dataclass
class HubConfig(StreamConfig):
    config: str | None = None  # configuration of the data set; null = its only one
    train: str | None = None  # split to train on; null = by its name, or the only one
    test: str | None = None  # split to score; null = by its name (test, else validation), where it has labels
    image_column: str | None = None  # null = the only column of images
    label_column: str | None = None  # null = the only column of class labels


# What cannot change a number, or changes it by what it selects, which the stream's key and hash say: two runs that differ only here
# are the same run if their streams are.
UNHASHED = ("root", "download", "checksum", "cache_gib", "workers", "corrupt", "test_list", "shot_list", "classes")

# What cuts a data set into tasks. All else is for the source, and an error where it is given and the source never reads it.
CUTTING = ("source", "scenario", "base", "increment", "tasks", "order", "shots", "shot_seed", "shot_list", "validation", "limit")

# What a source may leave unread: it is of this machine, or says in the key itself what came of it.
MACHINE = ("download", "checksum", "cache_gib", "workers", "corrupt")

# Name -> the options' defaults: one for each source, and one for each named protocol over a source.
STREAMS = {
    "digits": StreamConfig(),
    "cifar10": StreamConfig("cifar10"),
    "cifar100": StreamConfig("cifar100", increment=10, order=1993),
    "tiny_imagenet": StreamConfig("tiny_imagenet", increment=20, order=1993),
    "imagenet_r": StreamConfig("imagenet_r", increment=20, order=1993, image_size=224),
    "imagenet100": ImageNetConfig("imagenet100", increment=10),
    "imagenet1k": ImageNetConfig("imagenet1k", order=1993),
    "cub200": StreamConfig("cub200", increment=20, order=1993, image_size=224),
    "caltech101": StreamConfig("caltech101", base=11, increment=10, order=1993, image_size=224),
    "mini_imagenet": StreamConfig("mini_imagenet", increment=10, order=1993, image_size=84),
    "core50": StreamConfig("core50", scenario="domain", increment=1),
    "domainnet": StreamConfig("domainnet", scenario="domain", increment=1, image_size=224),
    "folder": FolderConfig("folder", image_size=224),
    "hub": HubConfig("hub", image_size=224),
    # Few-shot class-incremental protocols of Tao et al. (2020) and Zhang et al. (2021, CEC): natural order, no shuffle.
    "cifar100-fscil": StreamConfig("cifar100", base=60, increment=5, shots=5),
    "miniimagenet-fscil": StreamConfig("mini_imagenet", base=60, increment=5, shots=5, image_size=84),
    "cub200-fscil": StreamConfig("cub200", base=100, increment=10, shots=5, image_size=224),
}
