"""CIFAR-100 as two folders of images of 50 classes each: one to pretrain on, one to run streams on.

python -m tests.agreement.halves ROOT FOLDER [ROWS]    writes FOLDER/first and FOLDER/second, each with train/ and test/

ROOT holds cifar-100-python/; ROWS: training images a class of the second half, the first so many; all without it.
"""

import sys
from pathlib import Path

import torch
from PIL import Image

from bench.config import resolve
from data.source import load
from data.stream import TaskStream

if __name__ == "__main__":
    config = resolve(["stream=cifar100", f"stream.root={sys.argv[1]}", "stream.checksum=false", "stream.order=natural"]).stream
    stream = TaskStream(load(config), config)
    few = int(sys.argv[3]) if len(sys.argv) > 3 else None
    for split, rows in (("train", stream.train_rows), ("test", stream.scored_rows)):
        for label, name in enumerate(stream.class_names):
            folder = Path(sys.argv[2]) / ("first" if label < 50 else "second") / split / name
            folder.mkdir(parents=True)
            own = rows.at(torch.nonzero(rows.labels == label)[:, 0])
            kept = min(few or len(own), len(own)) if label >= 50 and split == "train" else len(own)
            for number, image in enumerate(own[list(range(kept))].inputs):
                Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{number:03}.png")
