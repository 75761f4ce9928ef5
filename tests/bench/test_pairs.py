"""Two folders of images that differ in one thing: either the run has another name, or its predictions are equal, bit for bit."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from bench.config import resolve
from bench.engine import run
from bench.identity import identity
from data.source import load
from data.stream import TaskStream
from tests.data import trees

SIDE = 8


def flowers(root: Path) -> None:
    for number, (split, label, row) in enumerate((s, c, r) for s in ("train", "test") for c in range(3) for r in range(4)):
        trees.save(root / split / f"kind{label}" / f"{row}.png", number, SIDE, SIDE)


def repacked(root: Path, suffix: str, **options) -> None:
    """Every file anew, with the same pixels."""
    for file in sorted(root.rglob("*.png")):
        with Image.open(file) as opened:
            pixels = opened.convert("RGB")
        file.unlink()
        pixels.save(file.with_suffix(suffix), **options)


def a_pixel(root: Path) -> None:
    file = root / "train" / "kind1" / "2.png"
    with Image.open(file) as opened:
        pixels = opened.convert("RGB")
    red, *others = pixels.getpixel((3, 3))
    pixels.putpixel((3, 3), (red ^ 1, *others))
    pixels.save(file)


def moved(old: str, new: str):
    return lambda root: shutil.move(root / old, root / new)


def other_names(root: Path) -> None:
    """The same rows in another order."""
    for file in sorted(root.rglob("*.png")):
        file.rename(file.with_name(f"z{9 - int(file.stem)}.png"))


def renamed_class(root: Path) -> None:
    for split in ("train", "test"):
        (root / split / "kind1").rename(root / split / "rose")


def again(root: Path) -> None:
    shutil.copy(root / "train" / "kind0" / "0.png", root / "train" / "kind0" / "copy.png")


def larger(root: Path) -> None:
    for file in sorted(root.rglob("*.png")):
        with Image.open(file) as opened:
            pixels = opened.resize((SIDE + 4, SIDE + 4), Image.Resampling.NEAREST)
        pixels.save(file)


# what is changed, whether it is still the same run
PAIRS = {
    "nothing but the place": (lambda root: None, True),
    "names and order of files": (other_names, True),
    "compression": (lambda root: repacked(root, ".png", compress_level=0), True),
    "format": (lambda root: repacked(root, ".bmp"), True),
    "one bit of one pixel": (a_pixel, False),
    "a label": (moved("train/kind0/1.png", "train/kind2/9.png"), False),
    "a split": (moved("test/kind0/1.png", "train/kind0/9.png"), False),
    "a row twice": (again, False),
    "a row less": (lambda root: (root / "train/kind2/3.png").unlink(), False),
    "the name of a class": (renamed_class, False),
    "the size of the images": (larger, False),
}


@pytest.mark.slow
def test_two_data_sets_that_differ_in_one_thing_differ_in_name_or_not_in_numbers(tmp_path, accelerator, monkeypatch):
    monkeypatch.setenv("CILBENCH_CACHE", str(tmp_path / "cache"))
    base = ["method=finetune", "method.epochs=1", "method.batch_size=4", "method.image_size=8", "stream=folder", "stream.increment=1"]

    def named(what: str, change):
        root = tmp_path / what / "flowers"
        flowers(root)
        change(root)
        config = resolve(
            [*base, "progress=false", "stream.image_size=8", f"stream.root='{root}'", f"results='{tmp_path / what / 'results'}'"]
        )
        return config, identity(config, TaskStream(load(config.stream), config.stream), "finetune", {})

    def predictions(config) -> pd.DataFrame:
        _, path = run(config, accelerator)
        return pd.read_parquet(path.with_name(f"{path.stem}-predictions.parquet"))

    config, name = named("base", lambda root: None)
    whole, names = predictions(config), {name}
    for what, (change, same) in PAIRS.items():
        changed, new = named(what, change)
        if same:
            assert new == name, what
            assert predictions(changed).equals(whole), what
        else:
            assert new not in names, what  # nor two changes one name
            names.add(new)
