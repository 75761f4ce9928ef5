"""The named sets as people have them: unpacked, moved, renamed, pointed at from above or below. Each gives the same images and labels.

Oracle: the official layout of the same images, row by row.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data.config import STREAMS
from data.errors import InputError
from data.images.files import imagenet_words
from data.source import Source, load
from tests.data import trees

MORE = {"imagenet1k": {"image_size": 8}, "imagenet_r": {"image_size": 8}, "cub200": {"image_size": 8}, "caltech101": {"image_size": 8}}
MORE |= {"domainnet": {"image_size": 8}, "core50": {}, "mini_imagenet": {}, "tiny_imagenet": {}}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CILBENCH_CACHE", str(tmp_path / "cache"))


def loaded(name: str, root: Path, **options) -> Source:
    return load(replace(STREAMS[name], root=str(root), **{**MORE[name], **options}))


def rows(source: Source) -> list[set]:
    """-> of each split what its rows are: their pixels, class and domain"""
    found = []
    for split in (source.train, source.test):
        pixels = split.images[torch.arange(len(split.labels))].flatten(1).numpy()
        domains = split.domains if split.domains is not None else np.zeros(len(split.labels))
        found.append(
            {
                (one.tobytes(), source.class_names[label], int(domain))
                for one, label, domain in zip(pixels, split.labels, domains, strict=True)
            }
        )
    return found


def rename(old: str, new: str, given: str = ""):
    """-> a packaging: a folder of the official tree by another name, and the root that the user gives"""

    def packaging(root: Path) -> Path:
        (root / new).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(root / old, root / new)
        return root / given

    return packaging


def at(given: str):
    return lambda root: root / given


def goldfish(root: Path) -> Path:
    """The real set holds goldfish, by which it is known."""
    shutil.move(root / "imagenet-r" / trees.WNIDS[10], root / "imagenet-r" / "n01443537")
    return root


def beside_junk(root: Path) -> Path:
    for name in ("Thumbs.db", "notes.md"):
        (next(one for one in sorted(root.iterdir()) if one.is_dir()) / name).write_text("words")
    return root


def val_in_class_folders(deep: str):
    def packaging(root: Path) -> Path:
        val = root / "tiny-imagenet-200" / "val"
        for line in (val / "val_annotations.txt").read_text().splitlines():
            file, wnid = line.split("\t")[:2]
            (val / wnid / deep).mkdir(parents=True, exist_ok=True)
            shutil.move(val / "images" / file, val / wnid / deep / file)
        (val / "images").rmdir()
        (val / "val_annotations.txt").unlink()
        return root

    return packaging


def mini_in_class_folders(root: Path) -> Path:
    for path in sorted((root / "miniimagenet" / "images").iterdir()):
        (path.parent / path.name[:9]).mkdir(exist_ok=True)
        shutil.move(path, path.parent / path.name[:9] / path.name)
    return root


def lists_apart(root: Path) -> Path:
    (root / "image_list").mkdir()
    for path in root.glob("*.txt"):
        shutil.move(path, root / "image_list" / path.name)
    return root


PACKAGINGS = {
    "cub200": [at("CUB_200_2011"), at("CUB_200_2011/images"), rename("CUB_200_2011", "birds"), rename("CUB_200_2011", "birds", "birds")]
    + [rename("CUB_200_2011", "archive/CUB_200_2011"), beside_junk],
    "tiny_imagenet": [val_in_class_folders(""), val_in_class_folders("images"), rename("tiny-imagenet-200", "TinyImageNet")]
    + [
        rename("tiny-imagenet-200", "TinyImageNet", "TinyImageNet"),
        rename("tiny-imagenet-200", "a/tiny-imagenet-200"),
        at("tiny-imagenet-200/train"),
    ],
    "caltech101": [rename("101_ObjectCategories", "caltech-101/101_ObjectCategories"), rename("101_ObjectCategories", "caltech-101")]
    + [rename("101_ObjectCategories", "caltech-101", "caltech-101"), at("101_ObjectCategories"), beside_junk],
    "mini_imagenet": [mini_in_class_folders, rename("miniimagenet", "mini-imagenet"), rename("miniimagenet", "m", "m/images")],
    "core50": [rename("core50_128x128", "core50"), rename("core50_128x128", "core50", "core50")],
    "domainnet": [lists_apart],
}


@pytest.mark.parametrize(("name", "at"), [(name, at) for name, found in PACKAGINGS.items() for at in range(len(found))])
def test_a_named_set_is_read_from_any_packaging(name, at, tmp_path):
    for place in ("official", "other"):
        (tmp_path / place).mkdir()
        getattr(trees, name)(tmp_path / place)
    official = loaded(name, tmp_path / "official")
    other = loaded(name, PACKAGINGS[name][at](tmp_path / "other"))
    assert rows(other) == rows(official) and other.class_names == official.class_names
    assert (other.intake.train, other.intake.test) == (len(official.train.labels), len(official.test.labels))


@pytest.mark.parametrize(("new", "given"), [("imagenet-r", ""), ("ImageNet-R", ""), ("ImageNet-R", "ImageNet-R"), ("sets/imagenet_r", "")])
def test_imagenet_r_as_the_archive_has_it(new, given, tmp_path):
    trees.imagenet_r(tmp_path)
    root = rename("imagenet-r", new, given)(goldfish(tmp_path)) if new != "imagenet-r" else goldfish(tmp_path)
    source = loaded("imagenet_r", root)
    assert (len(source.train.labels), len(source.test.labels)) == (16, 4) and source.variant.startswith("part")  # and no "split"
    assert source.class_names == tuple(imagenet_words()[wnid] for wnid in ("n01443537", *trees.WNIDS[11:14]))
    assert source.intake.others == {".txt": 1}


@pytest.mark.parametrize("given", ["imagenet-r", "", "imagenet-r/train", "imagenet-r/test"])
def test_imagenet_r_with_folders_train_and_test(given, tmp_path):
    trees.imagenet_r(tmp_path)
    goldfish(tmp_path)
    base, tests = tmp_path / "imagenet-r", []
    for folder in [one for one in sorted(base.iterdir()) if one.is_dir()]:
        for path in sorted(folder.iterdir()):
            split = "test" if path.stem in ("art_0", "art_3") else "train"
            tests += [f"{folder.name}/{path.name}"] * (split == "test")
            (base / split / folder.name).mkdir(parents=True, exist_ok=True)
            shutil.move(path, base / split / folder.name / path.name)
        folder.rmdir()
    source = loaded("imagenet_r", tmp_path / given)
    assert (len(source.train.labels), len(source.test.labels)) == (12, 8) and source.variant.startswith("split")
    assert sorted(source.test.images.names) == sorted(f"test/{name}" for name in tests)
    (tmp_path / "list.txt").write_text("\n".join(tests[::2]))
    listed = loaded("imagenet_r", tmp_path / given, test_list=str(tmp_path / "list.txt"))
    assert len(listed.test.labels) == 4 and len(listed.train.labels) == 16


def imagenet_flat(root: Path) -> tuple[list[str], list[str]]:
    """A tree of ImageNet with all val images in one folder. -> the classes, and the WordNet id of each val image in order of the files"""
    wnids = trees.WNIDS[5:9]
    trees.imagenet(root, wnids)
    (root / "classes.txt").write_text("\n".join(wnids))
    order = [2, 0, 3, 1]
    for number, label in enumerate(order):
        shutil.move(root / "val" / wnids[label] / f"val_{label}.JPEG", root / "val" / f"ILSVRC2012_val_{number + 1:08d}.JPEG")
        (root / "val" / wnids[label]).rmdir()
    return wnids, [wnids[label] for label in order]


def devkit(root: Path, wnids: list[str], labels: list[str]) -> None:
    from scipy.io import savemat

    data = root / "ILSVRC2012_devkit_t12" / "data"
    data.mkdir(parents=True)
    numbers = {wnid: 7 * at + 3 for at, wnid in enumerate(wnids)}  # the devkit's own numbers, which are not the order of the ids
    synsets = np.array(
        [(numbers[wnid], wnid, "words", 0) for wnid in wnids],
        dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")],
    )
    savemat(data / "meta.mat", {"synsets": synsets[:, None]})
    (data / "ILSVRC2012_validation_ground_truth.txt").write_text("\n".join(str(numbers[wnid]) for wnid in labels))


def kaggle(root: Path, wnids: list[str], labels: list[str]) -> None:
    lines = [f"ILSVRC2012_val_{number + 1:08d},{wnid} 1 2 3 4 {wnid} 5 6 7 8" for number, wnid in enumerate(labels)]
    (root / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + "\n".join(reversed(lines)))


def synset_labels(root: Path, wnids: list[str], labels: list[str]) -> None:
    (root / "imagenet_2012_validation_synset_labels.txt").write_text("\n".join(labels))


@pytest.mark.parametrize("write", [devkit, kaggle, synset_labels])
def test_imagenet_val_images_in_one_folder(write, tmp_path):
    for place in ("official", "other"):
        (tmp_path / place).mkdir()
    trees.imagenet(tmp_path / "official", trees.WNIDS[5:9])
    wnids, labels = imagenet_flat(tmp_path / "other")
    classes = str(tmp_path / "other" / "classes.txt")
    with pytest.raises(InputError, match="4 val images in one folder and no labels for them: put ILSVRC2012_devkit_t12/"):
        loaded("imagenet1k", tmp_path / "other", classes=classes)
    write(tmp_path / "other", wnids, labels)
    found = loaded("imagenet1k", tmp_path / "other", classes=classes)
    assert rows(found) == rows(loaded("imagenet1k", tmp_path / "official", classes=classes))


def test_imagenet_in_kaggles_tree(tmp_path):
    base = tmp_path / "ILSVRC" / "Data" / "CLS-LOC"
    base.mkdir(parents=True)
    wnids, labels = imagenet_flat(base)
    kaggle(tmp_path, wnids, labels)
    for given in (tmp_path, base, base / "train"):
        found = loaded("imagenet1k", given, classes=str(base / "classes.txt"))
        assert (len(found.train.labels), found.test.labels.tolist()) == (8, [0, 1, 2, 3])


def test_imagenet_labels_that_do_not_fit_are_refused(tmp_path):
    wnids, labels = imagenet_flat(tmp_path)
    synset_labels(tmp_path, wnids, labels[:-1])
    with pytest.raises(InputError, match="has 3 labels where there are 4 val images"):
        loaded("imagenet1k", tmp_path, classes=str(tmp_path / "classes.txt"))


@pytest.mark.parametrize(
    ("name", "lost", "sentence"),
    [
        ("cub200", "CUB_200_2011/images/002.Laysan_Albatross/bird_5.jpg", "images.txt names 1 images that .* lacks"),
        ("tiny_imagenet", "tiny-imagenet-200/val/images/val_1.JPEG", "val_annotations.txt names 1 images that .* lacks"),
        ("mini_imagenet", f"miniimagenet/images/{trees.WNIDS[40]}test0.jpg", "test.csv names '.*test0.jpg', which is no image"),
        ("domainnet", "real/alarm_clock/train_1.jpg", "names 1 images that .* lacks"),
    ],
)
def test_a_listed_file_that_is_missing_is_a_sentence_also_in_a_plan(name, lost, sentence, tmp_path):
    getattr(trees, name)(tmp_path)
    (tmp_path / lost).unlink()
    with pytest.raises(InputError, match=sentence):
        load(replace(STREAMS[name], root=str(tmp_path), **MORE[name]), decode=False)


def test_two_copies_are_a_question(tmp_path):
    for place in ("a", "b"):
        trees.cub200(tmp_path / place)
        shutil.move(tmp_path / place / "CUB_200_2011", tmp_path / f"birds_{place}")
    with pytest.raises(InputError, match="birds_a and .*birds_b both look like CUB_200_2011: set stream.root to the one to use"):
        loaded("cub200", tmp_path)
    assert len(loaded("cub200", tmp_path / "birds_b").train.labels) == 12


def test_what_a_named_set_does_not_use_is_counted(tmp_path):
    trees.tiny_imagenet(tmp_path)
    trees.save(tmp_path / "tiny-imagenet-200" / "test" / "images" / "test_0.JPEG", 5)
    told = loaded("tiny_imagenet", tmp_path).intake
    assert any("1 images in folders that are not used (test/images/test_0.JPEG)" in line for line in told.lines())
    trees.caltech101(tmp_path)
    assert any(
        "5 images in folders that are not used (first: BACKGROUND_Google/" in line for line in loaded("caltech101", tmp_path).intake.lines()
    )
