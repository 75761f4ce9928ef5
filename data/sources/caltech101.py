"""Caltech-101 (Fei-Fei et al. 2004): 101 categories; the background folder is no class.

It has no official split. Ours, version 1: paths sorted, `data.split.stratified` with seed 0 and share 0.2; or `stream.test_list`.
"""

from data.config import StreamConfig
from data.images.files import Origin, class_folders, cut, find_folder, readable, subfolders
from data.source import Source

ORIGIN = Origin("101_ObjectCategories", "https://data.caltech.edu/records/mzrjq-6wc02")


def load(config: StreamConfig) -> Source:
    """-> about 80% training and 20% test rows of each category, in alphabetical order"""
    root = find_folder(config, ORIGIN)
    classes = [name for name in subfolders(root) if name != "BACKGROUND_Google"]
    files, labels = class_folders(root, ".", classes)
    return cut("caltech101", 1, root, files, labels, [readable(name) for name in classes], config)
