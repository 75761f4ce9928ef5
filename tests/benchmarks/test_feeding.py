"""How fast images are fed, as ratios measured side by side in one run.  make benchmark"""

import resource
import time

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms

from data.config import StreamConfig
from data.images.augment import Augment, normalise
from data.images.store import FileStore
from data.source import Source, Split
from data.stream import Rows, TaskStream
from tests.benchmarks.timing import side_by_side
from tests.data import trees


def test_small_images_against_pil_transforms_and_a_loader():
    images = torch.randint(0, 256, (6400, 3, 32, 32), dtype=torch.uint8)
    rows, augment = Rows(images, torch.arange(6400), torch.zeros(6400, dtype=torch.int64)), Augment()
    pictures = [Image.fromarray(one) for one in images.permute(0, 2, 3, 1).numpy()]
    steps = [transforms.RandomCrop(32, 4), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    usual = transforms.Compose([*steps, transforms.Normalize((0.5,) * 3, (0.2,) * 3)])

    class Usual(torch.utils.data.Dataset):
        def __len__(self):
            return len(pictures)

        def __getitem__(self, at):
            return usual(pictures[at]), 0

    def ours():
        generator = torch.Generator().manual_seed(0)
        for batch in DataLoader(rows, batch_size=None, sampler=torch.randperm(6400).split(128)):
            normalise(augment(batch.inputs, augment.draw(len(batch.inputs), generator)))

    def theirs():
        for _ in DataLoader(Usual(), batch_size=128, shuffle=True, num_workers=2):
            pass

    usually, fed = side_by_side(theirs, ours)
    ratio = usually / fed
    print(f"\n32x32 training input: {ratio:.1f} times torchvision's PIL transforms with two workers")
    assert ratio >= 10


def test_files_against_a_bare_draft_decoder(tmp_path):
    for row in range(64):
        trees.picture(row, 40, 30).resize((500, 375)).save(tmp_path / f"{row}.jpg")
    store = FileStore(tmp_path, [f"{row}.jpg" for row in range(64)], 224, workers=1)

    def bare():
        for name in store.names:
            with Image.open(tmp_path / name) as image:
                image.draft("RGB", (224, 224))
                np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC, box=(62, 0, 437, 375)))

    barely, read = side_by_side(bare, lambda: store[torch.arange(64)], repeats=15)
    ratio = barely / read
    print(f"\ndecoding of files: {ratio:.2f} of a bare loop with PIL's draft mode")
    assert ratio >= 0.9


def test_the_split_of_imagenet_1k():
    labels, held = np.arange(1000).repeat(1281), np.arange(1000).repeat(50)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    splits = [
        Split(FileStore("/none", [f"{part}/n{label:08d}/{row}.JPEG" for row, label in enumerate(column)], 224), column)
        for part, column in (("train", labels), ("val", held))
    ]
    stream = TaskStream(Source("made", 1, *splits, tuple(map(str, range(1000)))), StreamConfig(increment=100, order=1993))
    sizes = [len(stream[task].train) for task in range(len(stream))]
    spent, grown = time.perf_counter() - start, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    print(f"\nsplit of {len(labels) / 1e6:.2f} M paths: {spent:.1f} s, {grown:.2f} GiB")
    assert sizes == [128_100] * 10 and spent < 5 and grown < 1
