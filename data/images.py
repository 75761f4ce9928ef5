"""Batched image transforms on the device. B batch, H and W in pixels; images are uint8 or float in 0..255."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn.functional import interpolate, pad

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet statistics, of images in 0..1


def resize(images: Tensor, size: int | None) -> Tensor:
    """[B, 3, H, W] -> float [B, 3, size, size] by antialiased bicubic interpolation; null keeps the size"""
    images = images.float()
    if size is None or tuple(images.shape[-2:]) == (size, size):
        return images
    return interpolate(images, size=(size, size), mode="bicubic", antialias=True).clamp(0, 255)


def normalise(images: Tensor, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD) -> Tensor:
    """float [B, 3, H, W] in 0..255 -> the same shape with ImageNet's channel statistics removed"""
    mean_, std_ = (torch.tensor(values, device=images.device)[:, None, None] * 255 for values in (mean, std))
    return (images - mean_) / std_


def denormalise(pixels: Tensor) -> Tensor:
    """What `normalise` undid: float [B, 3, H, W] -> uint8 [B, 3, H, W]"""
    mean, std = (torch.tensor(values, device=pixels.device)[:, None, None] * 255 for values in (MEAN, STD))
    return (pixels * std + mean).round().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class Augment:
    """Zero-pad by `padding` and crop at random, flip with probability 1/2 where `flip`: the CIFAR protocol of iCaRL.

    Draws and their use are apart, so that the draws can be made for the global batch and sliced by rank.
    """

    padding: int = 4
    flip: bool = True

    def draw(self, count: int, generator: Generator) -> Tensor:
        """-> int64 [count, 3]: vertical offset, horizontal offset (both in 0..2*padding), flip (0 or 1)"""
        offsets = torch.randint(0, 2 * self.padding + 1, (count, 2), generator=generator)
        flips = torch.randint(0, 2, (count, 1), generator=generator)
        return torch.cat([offsets, flips if self.flip else torch.zeros_like(flips)], 1)

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """images [B, 3, H, W], draws [B, 3] -> the augmented images, same shape and dtype"""
        height, width = images.shape[-2:]
        draws = draws.to(images.device)
        rows = draws[:, 0, None] + torch.arange(height, device=images.device)  # [B, H]
        columns = torch.arange(width, device=images.device).expand(len(images), -1)  # [B, W]
        columns = torch.where(draws[:, 2, None] == 1, width - 1 - columns, columns) + draws[:, 1, None]
        padded = pad(images, [self.padding] * 4)
        batch = torch.arange(len(images), device=images.device)[:, None, None]
        return padded.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
