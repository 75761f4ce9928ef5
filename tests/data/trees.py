"""Tiny data sets in their official layouts, made in a temporary folder."""

import csv
import io
import pickle
from pathlib import Path

import numpy as np
from PIL import Image

from data.images.files import imagenet_words
from data.split import class_order

WNIDS = list(imagenet_words())


def picture(seed: int, width: int = 20, height: int = 16) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def save(path: Path, seed: int, width: int = 20, height: int = 16) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed, width, height).save(path)


def cifar(root: Path, classes: int) -> list[str]:
    """Six training rows (over five batches for CIFAR-10) and two test rows a class"""
    names = [f"kind_{label:03d}" for label in range(classes)]
    ten = classes == 10
    folder = root / ("cifar-10-batches-py" if ten else "cifar-100-python")
    folder.mkdir(parents=True)
    labels, key = np.arange(classes).repeat(6), b"labels" if ten else b"fine_labels"
    pieces = np.array_split(np.arange(len(labels)), 5) if ten else [np.arange(len(labels))]
    files = [f"data_batch_{number}" for number in range(1, 6)] if ten else ["train"]
    random = np.random.default_rng(0)

    def write(name: str, rows: np.ndarray) -> None:
        record = {b"data": random.integers(0, 256, (len(rows), 3072), dtype=np.uint8), key: rows.tolist()}
        (folder / name).write_bytes(pickle.dumps(record, protocol=2))

    for file, piece in zip(files, pieces, strict=True):
        write(file, labels[piece])
    write("test_batch" if ten else "test", np.arange(classes).repeat(2))
    meta = {b"label_names" if ten else b"fine_label_names": [name.encode() for name in names]}
    (folder / ("batches.meta" if ten else "meta")).write_bytes(pickle.dumps(meta, protocol=2))
    return [name.replace("_", " ") for name in names]


def tiny_imagenet(root: Path) -> list[str]:
    base = root / "tiny-imagenet-200"
    wnids = [*WNIDS[:3], "n99999999"]
    lines = []
    for label, wnid in enumerate(wnids):
        for row in range(3):
            save(base / "train" / wnid / "images" / f"{wnid}_{row}.JPEG", label * 10 + row, 64, 64)
        save(base / "val" / "images" / f"val_{label}.JPEG", 1000 + label, 64, 64)
        lines.append(f"val_{label}.JPEG\t{wnid}\t0\t0\t62\t62")
    (base / "wnids.txt").write_text("\n".join(reversed(wnids)))
    (base / "val" / "val_annotations.txt").write_text("\n".join(lines))
    (base / "words.txt").write_text("n99999999\ttench, golden harvester\nn00000000\tnothing\n")
    return ["tench", "goldfish", "great white shark", "golden harvester"]


def imagenet_r(root: Path) -> list[str]:
    for label, wnid in enumerate(WNIDS[10:14]):
        for row in range(5):
            save(root / "imagenet-r" / wnid / f"art_{row}.jpg", label * 10 + row, 40 + row, 30)
    (root / "imagenet-r" / "README.txt").write_text("renditions")
    return [imagenet_words()[wnid] for wnid in WNIDS[10:14]]


def imagenet(root: Path, wnids: list[str]) -> list[str]:
    for label, wnid in enumerate(wnids):
        for row in range(2):
            save(root / "train" / wnid / f"{wnid}_{row}.JPEG", label * 10 + row)
        save(root / "val" / wnid / f"val_{label}.JPEG", 100_000 + label)
    return [imagenet_words()[wnid] for wnid in wnids]


def imagenet100(root: Path) -> list[str]:
    return imagenet(root, [WNIDS[label] for label in class_order(1993, 1000)[:100]])


def imagenet1k(root: Path) -> list[str]:
    wnids = WNIDS[5:9]
    (root / "classes.txt").write_text("\n".join(reversed(wnids)))
    imagenet(root, wnids)
    return [imagenet_words()[wnid] for wnid in reversed(wnids)]


def cub200(root: Path) -> list[str]:
    base, names = (
        root / "CUB_200_2011",
        ["001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross", "004.Groove_billed_Ani"],
    )
    tables: dict[str, list[str]] = {"images": [], "image_class_labels": [], "train_test_split": []}
    for label, name in enumerate(names):
        for row in range(4):
            number = label * 4 + row + 1
            save(base / "images" / name / f"bird_{number}.jpg", number)
            tables["images"].append(f"{number} {name}/bird_{number}.jpg")
            tables["image_class_labels"].append(f"{number} {label + 1}")
            tables["train_test_split"].append(f"{number} {int(row > 0)}")
    tables["classes"] = [f"{label + 1} {name}" for label, name in enumerate(names)]
    for table, lines in tables.items():
        (base / f"{table}.txt").write_text("\n".join(lines) + "\n")
    return ["Black footed Albatross", "Laysan Albatross", "Sooty Albatross", "Groove billed Ani"]


def caltech101(root: Path) -> list[str]:
    for label, name in enumerate(["BACKGROUND_Google", "Faces_easy", "accordion", "ant", "sea_horse"]):
        for row in range(5):
            save(root / "101_ObjectCategories" / name / f"image_{row:04d}.jpg", label * 10 + row)
    return ["Faces easy", "accordion", "ant", "sea horse"]


def mini_imagenet(root: Path) -> list[str]:
    base, wnids = root / "miniimagenet", [WNIDS[40], WNIDS[20], WNIDS[30], WNIDS[10]]  # not sorted: first named, first numbered
    (base / "split").mkdir(parents=True)
    for split, rows in (("train", 3), ("test", 1)):
        with (base / "split" / f"{split}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["filename", "label"])
            for label, wnid in enumerate(wnids):
                for row in range(rows):
                    save(base / "images" / f"{wnid}{split}{row}.jpg", label * 10 + row + 1000 * (split == "test"), 84, 84)
                    writer.writerow([f"{wnid}{split}{row}.jpg", wnid])
    return [imagenet_words()[wnid] for wnid in wnids]


def core50(root: Path) -> list[str]:
    for session in range(1, 12):
        for number in range(1, 51):
            save(
                root / "core50_128x128" / f"s{session}" / f"o{number}" / f"C_{session:02d}_{number:02d}_000.png",
                session * 100 + number,
                8,
                8,
            )
    return [f"plug adapter {one}" for one in range(1, 6)]


def domainnet(root: Path) -> list[str]:
    for number, domain in enumerate(("clipart", "infograph", "painting", "quickdraw", "real", "sketch")):
        for split, rows in (("train", 2), ("test", 1)):
            lines = []
            for label, name in enumerate(["aircraft_carrier", "alarm_clock"]):
                for row in range(rows):
                    file = f"{domain}/{name}/{split}_{row}.jpg"
                    save(root / file, number * 100 + label * 10 + row + 1000 * (split == "test"))
                    lines.append(f"{file} {label}")
            (root / f"{domain}_{split}.txt").write_text("\n".join(lines))
    return ["aircraft carrier", "alarm clock"]


def folder(root: Path) -> list[str]:
    for label, name in enumerate(["brown_bear", "cat", "dog", "emu"]):
        for row in range(5):
            save(root / name / "nested" / f"{row}.png", label * 10 + row, 20 + row)
    return ["brown bear", "cat", "dog", "emu"]


def hub(root: Path) -> list[str]:
    import datasets

    names = ["ant", "bee", "cow", "doe"]
    features = datasets.Features({"img": datasets.Image(), "fine": datasets.ClassLabel(names=names)})

    def part(rows: int, start: int):
        images = []
        for seed in range(start, start + 4 * rows):
            held = io.BytesIO()
            picture(seed).save(held, "PNG")
            images.append({"bytes": held.getvalue(), "path": None})
        return datasets.Dataset.from_dict({"img": images, "fine": [label for label in range(4) for _ in range(rows)]}, features=features)

    datasets.DatasetDict({"train": part(3, 0), "test": part(1, 500)}).save_to_disk(str(root / "pets"))
    return names


def messy(root: Path) -> Path:
    """A folder that nobody prepared: nested, many formats and modes, a rotated photo, a corrupt file. -> the corrupt file"""
    base = picture(0, 60, 40)
    for name in ("bears", "cats"):
        (root / name / "deep" / "er").mkdir(parents=True)
        base.save(root / name / "a.jpg")
        base.save(root / name / "b.JPG", "JPEG")
        picture(1, 33, 57).save(root / name / "deep" / "c.png")
        picture(2, 300, 200).save(root / name / "deep" / "er" / "d.webp")
        picture(3).convert("L").save(root / name / "grey.png")
        picture(4).convert("P").save(root / name / "palette.png", transparency=0)
        picture(5).convert("RGBA").save(root / name / "alpha.png")
        picture(6).convert("CMYK").save(root / name / "cmyk.jpg")
        Image.fromarray(np.full((9, 9), 40_000, np.uint16)).save(root / name / "deep16.png")
        exif = Image.Exif()
        exif[0x0112] = 6  # turned by 90 degrees
        picture(7, 50, 30).save(root / name / "turned.jpg", exif=exif)
        (root / name / "notes.txt").write_text("not an image")
        (root / name / ".hidden.jpg").write_text("not an image")
    (root / ".git").mkdir()
    corrupt = root / "cats" / "deep" / "torn.jpg"
    corrupt.write_bytes((root / "cats" / "a.jpg").read_bytes()[:200])
    return corrupt
