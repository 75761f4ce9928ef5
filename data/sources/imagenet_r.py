"""ImageNet-R (Hendrycks et al. 2021): 30,000 renditions of 200 ImageNet classes.

It has no official split. Ours, version 1: paths sorted, `data.split.stratified` with seed 0 and share 0.2. The random split of
an earlier paper is its list of test files: `stream.test_list=FILE`, one `<wnid>/<file>` a line.
"""

from data.config import StreamConfig
from data.images.files import Origin, class_folders, cut, find_folder, subfolders, words_of
from data.source import Source

ORIGIN = Origin("imagenet-r", "https://people.eecs.berkeley.edu/~hendrycks/imagenet-r.tar", "a61312130a589d0ca1a8fca1f2bd3337")


def load(config: StreamConfig) -> Source:
    """-> about 24,000 training and 6,000 test rows, in the order of sorted WordNet ids"""
    root = find_folder(config, ORIGIN)
    classes = subfolders(root)
    files, labels = class_folders(root, ".", classes)
    return cut("imagenet_r", 1, root, files, labels, words_of(classes), config)
