"""A source of tiny images, made in no time."""

import numpy as np
import torch

from data.source import Source, Split


def toy(classes: int, rows: int = 6, tests: int = 2, domains: int = 0, name: str = "toy") -> Source:
    """Rows of every class, class by class in turn; each image says its row number."""
    splits = []
    for count in (rows, tests):
        labels = np.tile(np.arange(classes), count)
        images = torch.arange(len(labels)).remainder(251).to(torch.uint8)[:, None, None, None].repeat(1, 3, 2, 2)
        images[:, 0, 0, 0] = count
        of_domain = np.arange(len(labels)) // classes % domains if domains else None
        splits.append(Split(images, labels, of_domain, official=np.arange(len(labels))))
    return Source(name, 1, *splits, tuple(f"c{i}" for i in range(classes)), tuple(f"d{i}" for i in range(domains)))
