"""ImageNet-1k (ILSVRC 2012) and ImageNet-100, from `train/<wnid>/` and the val images, which are the test rows.

The val images are read from `val/<wnid>/`, or flat from `val/`, with the labels of the first of these that lies beside them:
the devkit (`ILSVRC2012_devkit_t12/data/`: validation_ground_truth.txt and meta.mat), `LOC_val_solution.csv` of Kaggle, whose tree
`ILSVRC/Data/CLS-LOC/` is found, too, or a list of WordNet ids, one a line, `imagenet_2012_validation_synset_labels.txt`.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data.config import ImageNetConfig
from data.errors import InputError
from data.images.files import accounted, class_folders, file_split, imagenet_words, root_folder, words_of
from data.images.intake import Tree, survey
from data.images.lists import read_lines
from data.source import Source
from data.split import class_order

URL = "https://image-net.org/challenges/LSVRC/2012/"  # asks for an account, so it cannot be fetched
SPLITS = {"train": ("train", "ILSVRC2012_img_train"), "val": ("val", "ILSVRC2012_img_val", "validation")}


def load_1k(config: ImageNetConfig) -> Source:
    """-> all 1,000 classes by sorted WordNet id, or those of the user's file in its order"""
    return _load("imagenet1k", config, list(imagenet_words()))


def load_100(config: ImageNetConfig) -> Source:
    """-> the 100 classes of LUCIR and PyCIL: the first 100 of the seed-1993 permutation of the 1,000 sorted ids, in that order"""
    wnids = list(imagenet_words())
    return _load("imagenet100", config, [wnids[label] for label in class_order(1993, 1000)[:100]])


def _load(name: str, config: ImageNetConfig, classes: list[str]) -> Source:
    root, train, val = _root(config)
    variant = ""
    if config.classes is not None:
        classes = [line.split()[0] for line in read_lines(Path(config.classes))]
        variant = "classes"
    tree = survey(root)
    flat = [one for one in tree.below(val) if "/" not in one[len(val) + 1 :]]
    for split in (train,) if flat else (train, val):
        missing = sorted(set(classes) - set(tree.subfolders(split)))
        if missing:
            raise InputError(
                f"{root / split} lacks the folders of {len(missing)} of the {len(classes)} classes, {missing[0]} among them: "
                "unpack each class into a folder named by its WordNet id"
            )
    pairs = [class_folders(tree, train, classes), _flat(tree, root, flat, classes) if flat else class_folders(tree, val, classes)]
    return accounted(Source(name, 2, *(file_split(root, *pair, config) for pair in pairs), words_of(classes), variant=variant), tree)


def _root(config: ImageNetConfig) -> tuple[Path, str, str]:
    """-> the folder that holds the folders of training and val images, and their names"""
    root = root_folder(config, f"train/<wnid>/ and val/ ({URL})")
    for place in (root, root.resolve().parent, root / "ILSVRC" / "Data" / "CLS-LOC", root / "Data" / "CLS-LOC", root / "imagenet"):
        found = [next((name for name in names if (place / name).is_dir()), None) for names in SPLITS.values()]
        if None not in found:
            return place, *found
    raise InputError(f"{root} holds no train/ and val/: get them from {URL} and set stream.root to the folder that holds both")


def _flat(tree: Tree, root: Path, files: list[str], classes: list[str]) -> tuple[list[str], np.ndarray]:
    """-> of val images in one folder those of these classes, class by class, and their labels"""
    wnids = next((found for place in (root, *list(root.resolve().parents)[:3]) for found in _labels(place, files)), None)
    if wnids is None:
        raise InputError(
            f"{tree.root} holds {len(files)} val images in one folder and no labels for them: put ILSVRC2012_devkit_t12/ or "
            "LOC_val_solution.csv beside them"
        )
    number = {wnid: label for label, wnid in enumerate(classes)}
    rows = sorted((number[wnid], file) for file, wnid in zip(files, wnids, strict=True) if wnid in number)
    return [file for _, file in rows], np.array([label for label, _ in rows], dtype=np.int64)


def _labels(place: Path, files: list[str]) -> Iterator[list[str]]:
    """-> the WordNet id of each of the sorted val images, from each list of labels that lies in a folder"""
    for data in (place / "ILSVRC2012_devkit_t12" / "data", place / "data", place):
        truth, meta = data / "ILSVRC2012_validation_ground_truth.txt", data / "meta.mat"
        if truth.is_file() and meta.is_file():
            wnid_of = _devkit(meta)
            yield _one_each(truth, [wnid_of.get(line, line) for line in read_lines(truth)], files)
    if (path := place / "LOC_val_solution.csv").is_file():
        said = {line.split(",")[0]: line.split(",")[1].split()[0] for line in read_lines(path)[1:] if line.count(",") == 1}
        names = [Path(file).stem for file in files]
        if set(names) - set(said):
            raise InputError(f"{path} does not name {sorted(set(names) - set(said))[0]}: fetch it again")
        yield [said[name] for name in names]
    if (path := place / "imagenet_2012_validation_synset_labels.txt").is_file():
        yield _one_each(path, read_lines(path), files)


def _one_each(path: Path, wnids: list[str], files: list[str]) -> list[str]:
    if len(wnids) != len(files):
        raise InputError(f"{path} has {len(wnids)} labels where there are {len(files)} val images: use all of them")
    strange = sorted(set(wnids) - set(imagenet_words()))
    if strange:
        raise InputError(f"{path} has the label '{strange[0]}', which is no class of ILSVRC 2012: use the files of one release")
    return wnids


def _devkit(meta: Path) -> dict[str, str]:
    """-> WordNet id by ILSVRC2012_ID, in which the devkit counts the classes. Errors: InputError"""
    from scipy.io import loadmat

    try:
        synsets = loadmat(str(meta), squeeze_me=True)["synsets"]
        return {str(int(one)): str(wnid) for one, wnid in zip(synsets["ILSVRC2012_ID"], synsets["WNID"], strict=True)}
    except Exception as error:  # noqa: BLE001 - scipy raises whatever a damaged file leads to
        raise InputError(f"{meta} cannot be read ({error}): unpack the devkit again") from None
