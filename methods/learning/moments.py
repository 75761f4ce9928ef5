"""Sums over rows that closed-form methods keep, in float64 and the same to the last bit on any number of processes.

Shapes: N rows, D features, M features after `expand`, C classes.
"""

import contextlib
import os
from collections.abc import Callable, Iterator

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


def moments(rows: Tensor, labels: Tensor, classes: int, expand: Callable[[Tensor], Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    """-> on `device`, in float64: the sum of h h^T over all rows [M, M], and that of h over the rows of each class [C, M]

    rows: [N, D]; labels: int64 [N]; expand: float64 [n, D] -> h [n, M]. Errors: RuntimeError without rows.
    """
    second = sums = None
    for part, owners in zip(rows.split(BLOCK), labels.split(BLOCK), strict=True):
        h = expand(part.to(device).double())
        mine = one_hot(owners.to(device), classes).double()
        second = h.T @ h if second is None else second.addmm_(h.T, h)
        sums = mine.T @ h if sums is None else sums.addmm_(mine.T, h)
    return second, sums
