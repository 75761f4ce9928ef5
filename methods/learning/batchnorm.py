"""Batch normalisation with the statistics of the global batch, on any device. torch.nn.SyncBatchNorm knows only GPUs.

Shapes: B rows of this rank, C channels, H and W positions.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


class _GlobalBatchNorm2d(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape; mean and variance over all ranks' rows"""
        if not self.training:
            return super().forward(x)
        rows = x.float()
        count = torch.full((1,), rows.numel() / rows.shape[1], device=x.device)
        totals = all_reduce(torch.cat([rows.sum((0, 2, 3)), rows.square().sum((0, 2, 3)), count]))
        sums, squares, count = totals.split([rows.shape[1], rows.shape[1], 1])
        mean = sums / count
        variance = (squares / count - mean.square()).clamp_min(0)
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var.dtype), self.momentum)
        shape = (1, -1, 1, 1)
        scaled = (rows - mean.view(shape)) * (variance + self.eps).rsqrt().view(shape)
        return (scaled * self.weight.view(shape) + self.bias.view(shape)).to(x.dtype)


@contextlib.contextmanager
def global_statistics(model: nn.Module, processes: int) -> Iterator[None]:
    """Inside the block, plain BatchNorm2d layers use the global batch where there are several processes; weights keep their names."""
    layers = [layer for layer in model.modules() if type(layer) is nn.BatchNorm2d] if processes > 1 else []
    try:
        for layer in layers:
            layer.__class__ = _GlobalBatchNorm2d
        yield
    finally:
        for layer in layers:
            layer.__class__ = nn.BatchNorm2d
