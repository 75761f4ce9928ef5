"""A data set before it is cut into tasks, and how one is loaded by name."""

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.config import StreamConfig
from data.errors import unknown
from data.sources import SOURCES


@dataclass(frozen=True)
class Split:
    """Rows of one split: `images[rows]` gives uint8 [B, 3, H, W]; `labels` is int64 [N], ids of the source."""

    images: Any
    labels: np.ndarray


@dataclass(frozen=True)
class Source:
    """A data set before it is cut into tasks."""

    name: str
    version: int  # raised when its split or its labels change
    train: Split
    test: Split
    class_names: tuple[str, ...]  # words, by the source's label id
    mirrors: bool = True  # a mirrored image keeps its class (not so for digits and letters)


def load(config: StreamConfig) -> Source:
    """-> the data set that `config.source` names. Errors: InputError for an unknown name or missing data."""
    if config.source not in SOURCES:
        raise unknown("stream source", config.source, SOURCES)
    module, function = SOURCES[config.source].split(":")
    return getattr(importlib.import_module(module), function)(config)
