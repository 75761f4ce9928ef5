"""scikit-learn's scanned digits: 1,797 grey images of 8x8 pixels, ten classes (UCI Optical Recognition, test part)."""

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from data.config import StreamConfig
from data.source import Source, Split

CLASS_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def load(config: StreamConfig) -> Source:
    """-> 1,347 training and 450 test rows: a fixed stratified 75/25 split (seed 0). Needs no folder."""
    digits = load_digits()
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # [N, 8, 8], scanned with 17 grey levels
    images = torch.from_numpy(grey)[:, None].repeat(1, 3, 1, 1)
    labels = digits.target.astype(np.int64)
    train, test = train_test_split(np.arange(len(labels)), test_size=0.25, stratify=labels, random_state=0)
    train, test = np.sort(train), np.sort(test)
    return Source("digits", 2, Split(images[train], labels[train]), Split(images[test], labels[test]), CLASS_NAMES, mirrors=False)
