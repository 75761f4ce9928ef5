"""CIFAR-100 as two folders of images of 50 classes each: one to pretrain on, one to run streams on.

python -m tests.agreement.halves cifar-100-python-ROOT FOLDER      writes FOLDER/first and FOLDER/second, each with train/ and test/
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
    for split, rows in (("train", stream.train_rows), ("test", stream.scored_rows)):
        for label, name in enumerate(stream.class_names):
            folder = Path(sys.argv[2]) / ("first" if label < 50 else "second") / split / name
            folder.mkdir(parents=True)
            own = rows.at(torch.nonzero(rows.labels == label)[:, 0])
            for number, image in enumerate(own[list(range(len(own)))].inputs):
                Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{number:03}.png")
