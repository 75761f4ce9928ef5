"""What a network is given of an image: what its authors gave it, read from its own published description.

One `Fed` goes with every network that others have published: it makes its inputs, it is part of the cached features' key, and a plan and
a record say what stands in it. Shapes: B batch, H and W in pixels.
"""

import functools
import math
import re
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from data.errors import InputError, one_of
from data.images.augment import MEAN, STD, normalise

KERNELS = {kernel.name.lower(): kernel for kernel in Image.Resampling}  # nearest, lanczos, bilinear, bicubic, box, hamming
RULES = ("shortest", "squash", "longest")
STATISTICS = {"imagenet": (MEAN, STD), "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))}  # as in PyCIL and its heirs
RANGES = ("published", "unit", *STATISTICS)
ACTIVATION = re.compile(r"gelu|relu|silu|swish|mish|^tanh$|^elu$|^act", re.IGNORECASE)


@dataclass(frozen=True)
class Fed:
    """How images become a network's inputs.

    Errors: InputError for a rule that is not known here.
    """

    library: str  # packaged | timm | open_clip | transformers
    tag: str  # architecture and weights, as resolved
    size: int  # pixels of a side of what the network gets
    mean: tuple[float, ...]  # by channel, of images in 0..1
    std: tuple[float, ...]
    crop: float = 1.0  # share of the resized image that is cut out of its middle
    rule: str = "shortest"  # resized by its shortest side | squash: both sides, whatever their ratio | longest: by its longest side, padded
    interpolation: str = "bicubic"
    through: int = 0  # pixels of the longest side to which images are brought before; 0 = they are not
    range: str = "published"  # published or a name of STATISTICS, whose mean and std stand above | unit: 0..1, and they are not used
    activation: str = ""  # between the layers, as the network is built
    differs: str = ""  # where it is deliberately not what the authors have

    def __post_init__(self):
        one_of("input range", self.range, RANGES)
        one_of("rule of resizing", self.rule, RULES)
        one_of("interpolation", self.interpolation, KERNELS)
        if not 0 < self.crop <= 1 or self.size < 1:
            raise InputError(f"{self.tag} says it takes {self.size} pixels, {self.crop:g} of an image: name another model")

    @property
    def shorter(self) -> int:
        """-> pixels to which an image's shorter side is resized, out of which the centre is cut"""
        return math.floor(self.size / self.crop + 1e-6)

    def sized(self, size: int | None, range: str = "published") -> "Fed":
        """-> the same at another size, of which the same share is cut out, and in another range"""
        given = size is not None and size != self.size
        differs = f"images of {size} pixels, not {self.size}" if given else ""
        mean, std = STATISTICS.get(range, (self.mean, self.std))
        said = "; ".join(filter(None, (self.differs, differs)))
        return replace(self, size=size or self.size, mean=mean, std=std, range=range, differs=said)

    @property
    def key(self) -> str:
        """-> all of it that can change a number, as words"""
        return " ".join(str(getattr(self, field.name)) for field in fields(self) if field.name not in ("differs", "library"))

    def said(self) -> dict[str, Any]:
        """-> what a record says of it"""
        return asdict(self)

    def __str__(self) -> str:
        cut = "" if self.crop == 1 else f" cut out of {self.shorter}"
        numbers = "in 0..1" if self.range == "unit" else f"mean {_list(self.mean)}, std {_list(self.std)}"
        said = (f"{self.tag} ({self.library})", f"{self.size} pixels{cut}", self.interpolation, numbers, self.activation, self.differs)
        return ", ".join(filter(None, said))

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, H, W] -> float [B, 3, size, size]. Errors: InputError for images that would have to be padded."""
        height, width = images.shape[-2:]
        if self.rule == "longest" and height != width:
            raise InputError(f"{self.tag} pads images that are no squares, which is not done here: set stream.image_size={self.size}")
        with torch.autocast(images.device.type, enabled=False):
            pixels = images.float()
            for across, side, other in ((True, width, height), (False, height, width)):
                weights = resampling(side, self._ways(side, other), self.size, self.interpolation)
                if weights is not None:
                    weights = weights.to(images.device).expand(*images.shape[:2], -1, -1)
                    # A product of its own for every image: its pixels then depend on no other one in the batch.
                    pixels = pixels @ weights.transpose(-1, -2) if across else weights @ pixels
                    pixels = (pixels + 0.5).floor().clamp(0, 255)  # bytes after each of the two, as the libraries have them
            return pixels / 255 if self.range == "unit" else normalise(pixels, self.mean, self.std)

    def _ways(self, side: int, other: int) -> tuple[int, ...]:
        """-> the sizes that a side of an image goes through, where `other` is its other side"""
        ways = []
        if self.through:
            longest = side >= other
            first = self.through if longest else int(self.through / (other / side))
            ways.append(first + (first % 2 if not longest else 0))
        last = self.shorter
        if self.rule != "squash" and side > other:
            last = int(self.shorter * side / other)
        return (*ways, last)


@functools.lru_cache(maxsize=64)
def resampling(side: int, through: tuple[int, ...], cut: int, kernel: str) -> Tensor | None:
    """-> float32 [cut, side]: of which shares of a line's pixels each of the result's is made; None where they stay as they are

    The line is resized to each size of `through`, and `cut` pixels are taken out of its middle. The shares are Pillow's own: it is
    given lines that are black but for one pixel.
    """
    if set(through) == {side} and cut == side:
        return None
    lines = np.eye(side, dtype=np.float32)
    for size in through:
        lines = np.asarray(Image.fromarray(lines).resize((side, size), KERNELS[kernel]))
    first = round((len(lines) - cut) / 2)
    return torch.from_numpy(lines[first : first + cut].copy())


def activations(module: nn.Module) -> str:
    """-> the names of a network's activations"""
    return "+".join(sorted({type(part).__name__ for part in module.modules() if ACTIVATION.search(type(part).__name__)}))


def _list(values: tuple[float, ...]) -> str:
    return "/".join(f"{value:.4g}" for value in (values[:1] if len(set(values)) == 1 else values))
