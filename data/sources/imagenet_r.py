"""ImageNet-R (Hendrycks et al. 2021): 30,000 renditions of 200 ImageNet classes.

Read as the archive has it, `imagenet-r/<wnid>/`, and as continual-learning benchmarks pass it on, `imagenet-r/{train,test}/<wnid>/`.
It has no official split. Ours: `data.split.stratified` with seed 0 and share 0.2. Folders train and test are a split of
their own, which the key names. The random split of an earlier paper is its list of test files: `stream.test_list=FILE`, one
`<wnid>/<file>` a line.
"""

from dataclasses import replace

import numpy as np

from data.config import StreamConfig
from data.images.files import Origin, accounted, class_folders, cut, file_split, find_folder, imagenet_words, words_of
from data.images.intake import survey
from data.source import Source

SPLITS = ("train", "test")
GOLDFISH = "n01443537/*_[0-9]*.jpg"  # art_0.jpg, cartoon_12.jpg: not as ImageNet itself names its files
ORIGIN = Origin(
    "imagenet-r",
    "https://people.eecs.berkeley.edu/~hendrycks/imagenet-r.tar",
    "a61312130a589d0ca1a8fca1f2bd3337",
    (f"{GOLDFISH}|train/{GOLDFISH}|test/{GOLDFISH}",),
)


def load(config: StreamConfig) -> Source:
    """-> about 24,000 training and 6,000 test rows, in the order of sorted WordNet ids"""
    folder = find_folder(config, ORIGIN)
    if folder.name in SPLITS and all((folder.resolve().parent / part).is_dir() for part in SPLITS):  # one of its splits was named
        folder = folder.resolve().parent
    tree = survey(folder)
    split = set(SPLITS) <= set(tree.subfolders())
    classes = sorted({name for part in (SPLITS if split else ("",)) for name in tree.subfolders(part)} & set(imagenet_words()))
    pairs = [class_folders(tree, part, classes) for part in (SPLITS if split else ("",))]
    if split and config.test_list is None:
        source = Source("imagenet_r", 2, *(file_split(tree.root, *pair, config) for pair in pairs), words_of(classes))
        return accounted(replace(source, variant="split"), tree, ["splits: train/ and test/ as they are"])
    files, labels = [name for names, _ in pairs for name in names], np.concatenate([labels for _, labels in pairs])
    source = cut("imagenet_r", 2, tree.root, files, labels, words_of(classes), config)
    return accounted(source, tree)
