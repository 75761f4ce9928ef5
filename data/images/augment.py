"""Batched image transforms on the device. B batch, H and W in pixels; images are uint8 or float in 0..255."""

import math
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


TRIES, RATIOS = 10, (3 / 4, 4 / 3)  # of a random crop: torchvision's


@dataclass(frozen=True)
class ResizedCrop:
    """A crop of random area and shape, resized to `size` pixels, and flipped with probability 1/2 where `flip`: Inception's.

    torchvision's RandomResizedCrop with its defaults: bilinear, antialiased, area and ratio drawn until the crop fits, ten times at most.
    Draws and their use are apart, as in `Augment`.
    """

    size: int
    smallest: float = 0.08  # share of an image's area
    flip: bool = True

    def draw(self, count: int, generator: Generator) -> Tensor:
        """-> in 0..1, [count, 2 * TRIES + 3]: areas, ratios, vertical and horizontal place, flip"""
        return torch.rand(count, 2 * TRIES + 3, generator=generator)

    def boxes(self, draws: Tensor, height: int, width: int) -> Tensor:
        """[B, 2 * TRIES + 3] -> int64 [B, 4]: top, left, height and width of the crop in pixels"""
        areas = (self.smallest + (1 - self.smallest) * draws[:, :TRIES].double()) * (height * width)
        low, high = (math.log(ratio) for ratio in RATIOS)
        ratios = torch.exp(low + (high - low) * draws[:, TRIES : 2 * TRIES].double())
        w, h = (areas * ratios).sqrt().round().long(), (areas / ratios).sqrt().round().long()  # [B, TRIES]
        fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
        first = fits.int().argmax(1, keepdim=True)
        w, h = w.gather(1, first)[:, 0], h.gather(1, first)[:, 0]
        places = draws[:, 2 * TRIES : 2 * TRIES + 2].double()
        top, left = (places[:, 0] * (height - h + 1)).long(), (places[:, 1] * (width - w + 1)).long()
        # None fitted: the largest crop in the middle whose shape is allowed.
        widest, highest = min(width, round(height * RATIOS[1])), min(height, round(width / RATIOS[0]))
        middle = torch.tensor([(height - highest) // 2, (width - widest) // 2, highest, widest])
        return torch.where(fits.any(1, keepdim=True), torch.stack([top, left, h, w], 1), middle)

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """images [B, 3, H, W], draws as above -> float [B, 3, size, size] in 0..255

        A resized crop is a product with two matrices of weights, one an axis; all rows' products are one call.
        """
        top, left, height, width = self.boxes(draws.cpu(), *images.shape[-2:]).to(images.device).unbind(1)
        down = _triangles(top, height, images.shape[-2], self.size)
        across = _triangles(left, width, images.shape[-1], self.size)
        if self.flip:
            across = torch.where((draws[:, -1] < 0.5).to(images.device)[:, None, None], across.flip(1), across)
        return down[:, None] @ images.float() @ across.transpose(1, 2)[:, None]


def _triangles(start: Tensor, length: Tensor, pixels: int, size: int) -> Tensor:
    """-> weights [B, size, pixels] of bilinear, antialiased interpolation of the stretch [start, start + length) of an axis to `size`"""
    start, length = start[:, None, None].float(), length[:, None, None].float()
    scale = length / size
    centre = start + (torch.arange(size, device=start.device)[:, None] + 0.5) * scale
    at = torch.arange(pixels, device=start.device) + 0.5
    weights = (1 - (at - centre).abs() / scale.clamp(min=1)).clamp(min=0)
    weights = weights * ((at > start) & (at < start + length))
    return weights / weights.sum(2, keepdim=True)
