"""Caltech-101 (Fei-Fei et al. 2004): 101 categories; the background folder is no class.

Read from `101_ObjectCategories/`, under any name and one or two folders deeper (the archive's `caltech-101/101_ObjectCategories/`).
It has no official split. Ours: `data.split.stratified` with seed 0 and share 0.2; or `stream.test_list`.
"""

from data.config import StreamConfig
from data.images.files import Origin, accounted, class_folders, cut, find_folder, readable
from data.images.intake import survey
from data.source import Source

ORIGIN = Origin("101_ObjectCategories", "https://data.caltech.edu/records/mzrjq-6wc02", None, ("accordion", "Faces_easy", "ant"))


def load(config: StreamConfig) -> Source:
    """-> about 80% training and 20% test rows of each category, in alphabetical order"""
    tree = survey(find_folder(config, ORIGIN))
    classes = [name for name in tree.subfolders() if name != "BACKGROUND_Google"]
    files, labels = class_folders(tree, "", classes)
    return accounted(cut("caltech101", 2, tree.root, files, labels, [readable(name) for name in classes], config), tree)
