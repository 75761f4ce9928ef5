"""Which rows each optimizer step sees: planned for the *global* batch from (seed, task, phase, step), then sliced by rank.

Nothing here depends on the number of processes but the slice. Shapes: b rows of one rank, N rows, W processes.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.images.augment import Augment, ResizedCrop


def derive_seed(*where: int) -> int:
    """-> a 63-bit seed from integers, the same on every machine"""
    return int.from_bytes(hashlib.sha256(repr(where).encode()).digest()[:8], "little") >> 1


@dataclass(frozen=True)
class Micro:
    """One micro-batch of one optimizer step, as one rank sees it."""

    step: int
    first: bool  # opens the step
    last: bool  # closes the step
    weight: float  # this rank's share of the global mean, times W because ranks are averaged
    count: int  # rows of the global batch
    where: list[int]  # this rank's rows among them
    seed: int

    def draws(self, augment: Augment | ResizedCrop) -> Tensor:
        return augment.draw(self.count, torch.Generator().manual_seed(self.seed))[self.where]

    def uniform(self, width: int) -> Tensor:
        """-> random numbers in 0..1 for this rank's rows, [b, width], other ones than those of `draws`"""
        return torch.rand(self.count, width, generator=torch.Generator().manual_seed(derive_seed(self.seed)))[self.where]

    def normal(self, width: int) -> Tensor:
        """-> standard normal numbers for this rank's rows, [b, width], other ones than those of `draws` and `uniform`"""
        return torch.randn(self.count, width, generator=torch.Generator().manual_seed(derive_seed(self.seed, 1)))[self.where]


class GlobalBatches:
    """A sampler of one rank's positions [b] among N rows, for every micro-batch of the steps `start` to `steps`.

    where: seed, task and phase, from which all order and all draws follow.
    """

    def __init__(self, count: int, size: int, accumulate: int, where: tuple[int, ...], start: int, steps: int, rank: int, world: int):
        self.count, self.size, self.accumulate, self.where = count, size, accumulate, where
        self.start, self.steps, self.rank, self.world = start, steps, rank, world

    def _plan(self) -> Iterator[tuple[Tensor, Micro]]:
        epoch_now, order = -1, torch.empty(0)
        steps_an_epoch = math.ceil(self.count / self.size)
        for step in range(self.start, self.steps):
            epoch, at = divmod(step, steps_an_epoch)
            if epoch != epoch_now:
                order = torch.randperm(self.count, generator=torch.Generator().manual_seed(derive_seed(*self.where, epoch)))
                epoch_now = epoch
            whole = order[at * self.size : (at + 1) * self.size]
            parts = np.array_split(np.arange(len(whole)), min(self.accumulate, len(whole)))
            for number, part in enumerate(parts):
                mine = np.array_split(part, self.world)[self.rank].tolist()
                weight = len(mine) * self.world / len(whole)
                mine = mine or part[:1].tolist()  # a rank without rows still takes part, with weight 0
                seed = derive_seed(*self.where, step, -1)
                yield whole[mine], Micro(step, number == 0, number == len(parts) - 1, weight, len(whole), mine, seed)

    def __iter__(self) -> Iterator[Tensor]:
        return (positions for positions, _ in self._plan())

    def micro(self) -> Iterator[Micro]:
        return (micro for _, micro in self._plan())

    def __len__(self) -> int:
        return sum(1 for _ in self._plan())
