"""Tensors of many classes as a few: a file of thousands of small tensors is large, and slow to write and to read.

Shapes: C classes, N rows of all classes, m of one.
"""

import torch
from torch import Tensor


def joined(by_class: dict[int, Tensor]) -> dict[str, Tensor]:
    """Class id -> [m, ...], alike but for m. -> classes int64 [C], lengths int64 [C], rows [N, ...]"""
    lengths = [len(rows) for rows in by_class.values()]
    rows = torch.cat([*by_class.values()]) if by_class else torch.empty(0, dtype=torch.int64)
    return {"classes": torch.tensor([*by_class], dtype=torch.int64), "lengths": torch.tensor(lengths, dtype=torch.int64), "rows": rows}


def parted(state: dict[str, Tensor]) -> dict[int, Tensor]:
    """-> what `joined` took, in the same order; each class has memory of its own, which goes when the class shrinks"""
    parts = state["rows"].split(state["lengths"].tolist())
    return {label: rows.clone() for label, rows in zip(state["classes"].tolist(), parts, strict=True)}
