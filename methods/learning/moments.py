"""Sums over rows that closed-form methods keep, in float64 and the same to the last bit on any number of processes.

Shapes: N rows, M or D features, C classes.
"""

import contextlib
import os
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import one_hot

BLOCK = 4096  # rows of a product: a sum in other blocks differs in its last bits


@contextlib.contextmanager
def every_core() -> Iterator[None]:
    """Inside the block, the CPU computes with as many threads as it has cores, whatever the launch says.

    A launcher of several processes gives each fewer threads than one alone has, and a sum by another number of threads differs in its
    last bits.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def add_gram(total: Tensor, rows: Tensor, tile: int = 512) -> Tensor:
    """Add the sum of h h^T over rows [N, M] to the upper triangle of `total` [M, M], in place: half of the products. -> total

    Of what stands below the diagonal some is changed, too, and none is of any meaning.
    """
    for start in range(0, len(total), tile):
        total[start : start + tile, start:].addmm_(rows[:, start : start + tile].T, rows[:, start:])
    return total


def gram(rows: Tensor, tile: int = 512) -> Tensor:
    """[N, M] -> the sum of h h^T [M, M], whole"""
    found = add_gram(rows.new_zeros(rows.shape[1], rows.shape[1]), rows, tile)
    for start in range(0, len(found), tile):
        found[start + tile :, start : start + tile] = found[start : start + tile, start + tile :].T
    return found


def moments(rows: Tensor, labels: Tensor, classes: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """-> on `device`, in float64: the sum of f f^T over all rows [D, D], and that of f over the rows of each class [C, D]

    rows: [N, D]; labels: int64 [N].
    """
    second = sums = 0
    for part, owners in zip(rows.split(BLOCK), labels.split(BLOCK), strict=True):
        features, mine = part.to(device).double(), one_hot(owners.to(device), classes).double()
        second, sums = second + gram(features), sums + mine.T @ features
    return second, sums
