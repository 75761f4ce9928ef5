"""How often an image is read: once an evaluation for a test row, and for an exemplar's choice once a task."""

from collections import Counter

import torch

from bench.engine import evaluate, learn, make_method
from data.source import load
from data.stream import Rows, TaskStream


class Counting:
    """A store that counts the reads of each row."""

    def __init__(self, images: torch.Tensor):
        self.images, self.reads = images, Counter()

    def __getitem__(self, index: torch.Tensor) -> torch.Tensor:
        self.reads.update(index.tolist())
        return self.images[index]


def test_rows_are_read_once(quick, accelerator):
    config = quick("icarl", "method.memory=10")
    stream = TaskStream(load(config.stream), config.stream)
    train, scored = Counting(stream.train_rows.store), Counting(stream.scored_rows.store)
    method = make_method(config, accelerator, stream)
    stream.train_rows, stream.scored_rows = stream.train_rows.on(train), stream.scored_rows.on(scored)
    for number in range(2):
        learn(config, accelerator, method, stream, number)
        trained, exemplars = config.method.epochs, method.memory.rows(stream.train_rows).index.tolist()
        if number == 0:  # to train, to choose exemplars, and the chosen ones for their means
            assert 0 < len(exemplars) < len(stream[0].train)
            assert train.reads == {row: trained + 1 + (row in exemplars) for row in stream[0].train.index.tolist()}
        evaluate(accelerator, method, stream, number, config)
        seen = stream.seen(number)
        assert isinstance(seen, Rows) and all(scored.reads.pop(row) == 1 for row in seen.index.tolist()) and not scored.reads
