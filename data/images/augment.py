"""Batched image transforms on the device. B batch, H and W in pixels; images are uint8 or float in 0..255."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn.functional import interpolate, pad

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet statistics, of images in 0..1


def resize(images: Tensor, size: int | None) -> Tensor:
    """[B, 3, H, W] -> float [B, 3, size, size] by antialiased bicubic interpolation; the images as they are where null or that size"""
    if size is None or tuple(images.shape[-2:]) == (size, size):
        return images
    return interpolate(images.float(), size=(size, size), mode="bicubic", antialias=True).clamp(0, 255)


def normalise(images: Tensor, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD) -> Tensor:
    """[B, 3, H, W] in 0..255 -> float, the same shape, with ImageNet's channel statistics removed"""
    mean_, std_ = (torch.tensor(values, device=images.device)[:, None, None] * 255 for values in (mean, std))
    return images.to(torch.float32, copy=True).sub_(mean_).div_(std_)  # in place: fresh memory costs more than the arithmetic


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
        """images [B, 3, H, W], draws [B, 3] -> the augmented images, same shape and dtype

        Every pixel row of the result is one stretch of the padded images or of their mirror images: one lookup moves them all.
        """
        count, channels, height, width = images.shape
        down, right, flip = draws.to(images.device)[:, :, None, None].unbind(1)  # [B, 1, 1] each
        padded = pad(torch.stack([images, images.flip(-1)]), [self.padding] * 4)  # [2, B, 3, H', W']
        plane, columns = padded[0, 0, 0].numel(), padded.shape[-1]
        right = torch.where(flip == 1, 2 * self.padding - right, right)
        image = flip * count + torch.arange(count, device=images.device)[:, None, None]
        channel = torch.arange(channels, device=images.device)[:, None]
        row = down + torch.arange(height, device=images.device)
        start = (image * channels + channel) * plane + row * columns + right  # [B, 3, H]
        stretches = padded.flatten().unfold(0, width, 1)  # a view: [every start, W]
        return stretches.index_select(0, start.flatten()).view(images.shape)
