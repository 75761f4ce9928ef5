"""Any folder of images: `root/{train,test}/<class>/**`, or `root/<class>/**` with a seeded split.

The key holds the folder's name and a hash of the file names, so that two folders never share a record.
"""

from dataclasses import replace

from data.config import StreamConfig
from data.errors import InputError
from data.images.files import class_folders, cut, file_split, root_folder, subfolders, words_of
from data.source import Source
from data.split import short_hash

TEST_NAMES = ("test", "val", "validation")


def load(config: StreamConfig) -> Source:
    """-> classes in alphabetical order, named by their folders (WordNet ids by their words)

    Without a test folder: `stream.test_list`, else `data.split.stratified` with seed 0 and share 0.2 over the sorted paths.
    """
    root = root_folder(config, "a folder of images for each class")
    folders = subfolders(root)
    test = next((name for name in TEST_NAMES if name in folders), None)
    if "train" in folders and test is not None:
        classes = sorted({*subfolders(root / "train"), *subfolders(root / test)})
        pairs = [class_folders(root, split, classes) for split in ("train", test)]
        source = Source("folder", 1, *(file_split(root, *pair, config) for pair in pairs), words_of(classes))
        content = [names for names, _ in pairs]
    else:
        files, labels = class_folders(root, ".", folders)
        if not folders or not files:
            raise InputError(f"{root} holds no <class>/<image>: put the images of each class in a folder of its own")
        empty = sorted(set(range(len(folders))) - set(labels.tolist()))
        if empty:
            raise InputError(f"the folder '{folders[empty[0]]}' of {root} holds no images: remove it or add images")
        source = cut("folder", 1, root, files, labels, words_of(folders), config)
        content = files
    slug = "".join(letter if letter.isalnum() else "_" for letter in root.resolve().name.lower())[:40]
    return replace(source, name=f"folder_{slug}_{short_hash(content)}")
