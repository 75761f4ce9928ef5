"""Batch normalisation with the statistics of the global batch, on any device. torch.nn.SyncBatchNorm knows only GPUs.

Shapes: B rows of this rank, C channels, H and W positions.
"""

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

from data.errors import InputError


class _Global:
    """In front of a batch norm's class: its statistics are those of all ranks' rows, but for a rank whose rows do not count."""

    counts: Callable[[], bool]

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape"""
        if not self.training:
            return super().forward(x)
        rows, share = x.float(), float(self.counts())
        count = torch.full((1,), rows.numel() / rows.shape[1], device=x.device)
        totals = all_reduce(torch.cat([rows.sum((0, 2, 3)), rows.square().sum((0, 2, 3)), count]) * share)
        sums, squares, count = totals.split([rows.shape[1], rows.shape[1], 1])
        mean = sums / count
        variance = (squares / count - mean.square()).clamp_min(0)
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var.dtype), self.momentum)
        shape = (1, -1, 1, 1)
        scaled = (rows - mean.view(shape)) * (variance + self.eps).rsqrt().view(shape)
        found = (scaled * self.weight.view(shape) + self.bias.view(shape)).to(x.dtype)
        return self.act(self.drop(found)) if hasattr(self, "act") else found  # timm's layer goes on with an activation


@functools.cache
def _in_front(kind: type) -> type:
    return type(f"Global{kind.__name__}", (_Global, kind), {})


def _depends_on_the_batch(layer: nn.Module) -> bool:
    """-> does it, as it is now, take statistics of a batch, or keep running ones?"""
    keeps = any(name.startswith("running_") for name, _ in layer.named_buffers(recurse=False))
    return layer.training and (keeps or isinstance(layer, nn.modules.batchnorm._BatchNorm)) and type(layer) is not nn.SyncBatchNorm


def _known(layer: nn.Module) -> bool:
    """-> is it torch's plain BatchNorm2d, or timm's with an activation, with all that they have by default?"""
    timm = sys.modules.get("timm.layers")  # not imported for its own sake
    kinds = (nn.BatchNorm2d, timm.BatchNormAct2d) if timm else (nn.BatchNorm2d,)
    return type(layer) in kinds and layer.affine and layer.track_running_stats and layer.momentum is not None


@contextlib.contextmanager
def global_statistics(model: nn.Module, processes: int, counts: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Inside the block, batch norms that train use the global batch where there are several processes; weights keep their names.

    counts: do this rank's rows count now? Errors: InputError for a layer whose batch statistics cannot be made global.
    """
    layers = {name: layer for name, layer in model.named_modules() if _depends_on_the_batch(layer)} if processes > 1 else {}
    for name, layer in layers.items():
        if not _known(layer):
            raise InputError(
                f"layer '{name}' ({type(layer).__name__}) would take its statistics from each process's share of a batch: train on one "
                "process, or a network whose batch norms are torch's BatchNorm2d or timm's BatchNormAct2d"
            )
    kinds = [(layer, type(layer)) for layer in layers.values()]
    try:
        for layer, kind in kinds:
            layer.__class__, layer.counts = _in_front(kind), counts
        yield
    finally:
        for layer, kind in kinds:
            layer.__class__ = kind
            layer.__dict__.pop("counts", None)
