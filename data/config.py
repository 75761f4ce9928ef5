"""Options of a stream. Importable without torch, so that `--help` stays fast."""

from dataclasses import dataclass
from typing import Any


@dataclass
class StreamConfig:
    source: str = "digits"  # data set, a name in data.sources.SOURCES
    root: str | None = None  # folder that holds the data; null where the data need none
    base: int = 0  # classes in the first task; 0 = as many as `increment`
    increment: int = 2  # classes in each later task
    order: Any = "natural"  # class order: "natural", an integer seed, "icarl", or a list of class ids
    validation: float = 0.0  # share of the training rows carved out and scored in place of the test rows
    limit: int | None = None  # at most this many rows a class and split; marks the run as limited


@dataclass
class Digits(StreamConfig):
    pass


STREAMS = {"digits": Digits}
