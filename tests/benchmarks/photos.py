"""30,000 JPEG files of 200 classes, as ImageNet-R has, through a very small generative model: features live and from the cache.

python -m tests.benchmarks.photos [FILES [CLASSES]]
"""

import io
import itertools
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from PIL import Image

from bench import engine
from bench import record as records
from bench.config import resolve
from data.images.store import FileStore
from data.source import Source, Split
from data.stream import TaskStream
from methods.gmm.models import VLMS
from tests.benchmarks.rehearsal import NAMES, SMALL, very_small


def write_photos(root: Path, labels: np.ndarray) -> list[str]:
    """Write a JPEG file for each label: smooth pictures of 200 to 400 pixels a side, eight of a class, each with bytes of its own

    -> their names
    """
    draw, made = np.random.default_rng(0), {}
    for label, kind in itertools.product(np.unique(labels).tolist(), range(8)):
        coarse = draw.integers(0, 80, (12, 12, 3)) + [label % 160, label * 7 % 160, label * 31 % 160]
        size = tuple(draw.integers(200, 401, 2).tolist())
        Image.fromarray(coarse.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC).save(found := io.BytesIO(), "JPEG", quality=85)
        made[label, kind] = found.getvalue()
    for row, label in enumerate(labels.tolist()):  # what follows a picture's end is read by none
        (root / f"{row}.jpg").write_bytes(made[label, row // 200 % 8] + row.to_bytes(4, "big"))
    return [f"{row}.jpg" for row in range(len(labels))]


def main(count: int = 30_000, classes: int = 200) -> None:
    """Print how long each way of feeding takes over real files, and that both give the same answers."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        root, labels = Path(place), np.arange(count) % classes
        names, held = write_photos(root, labels), labels.size // 5
        splits = [Split(FileStore(root, names[part], 64), labels[part]) for part in (slice(held, None), slice(held))]
        made = Source("files", 1, *splits, NAMES[:classes])
        VLMS["very_small"], engine.opened = very_small, lambda options: TaskStream(made, options)
        found, losses, answers = {}, {}, {}
        for way in ("live", "cache"):
            given = [*SMALL, "stream=digits", "stream.increment=20", f"features={way}", "progress=false", f"results={root / way}"]
            losses[way] = []
            tracked = engine.Tracking.training
            engine.Tracking.training = lambda self, values, way=way: losses[way].append(values["loss"])
            before, used = time.perf_counter(), processor()
            found[way], path = engine.run(resolve(["method=gmm", *given]), Accelerator(cpu=True))
            engine.Tracking.training = tracked
            answers[way] = pd.read_parquet(path.with_name(f"{path.stem}-predictions.parquet")).answer
            most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(
                f"{way}: {time.perf_counter() - before:.0f} s, {processor() - used:.0f} s of the processor, at most {most:,.0f} MiB so far"
            )
        apart = np.abs(np.subtract(losses["live"], losses["cache"])).max()
        print(f"{count:,} files: {len(losses['live'])} reported losses at most {apart:.2g} apart")
        print(f"{(answers['live'] == answers['cache']).mean():.2%} of {len(answers['live']):,} generated answers are equal")
        print(f"records agree: {records.stable(found['live']) == records.stable(found['cache'])}")


def processor() -> float:
    """-> processor seconds so far, with those of workers that have ended"""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
