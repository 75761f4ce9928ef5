"""What a network is given of an image: what its authors gave it, read from its own published description.

One `Fed` goes with every network that others have published: it makes its inputs, it is part of the cached features' key, and a plan and
a record say what stands in it. Shapes: B batch, H and W in pixels.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from data.errors import InputError, one_of
from data.images.augment import MEAN, STD, normalise
from methods.networks.resizing import KERNELS, resized

VERSION = "pixels-2"  # raised when the same words make other pixels
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
    channels: str = "RGB"  # their order
    pooled: str = ""  # what one vector of an image is, in a network of transformers; elsewhere its library's own
    by: str = ""  # a processor of transformers, with a digest of its settings, where it makes the inputs itself
    make: Callable[[Tensor, int], Tensor] | None = field(default=None, compare=False, repr=False)  # it; (images, size) -> inputs

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
        other = self.make is not None and range != self.range == "published"
        make = partial(in_unit, self.make, self.mean, self.std) if other else self.make
        return replace(self, size=size or self.size, mean=mean, std=std, range=range, differs=said, make=make)

    @property
    def key(self) -> str:
        """-> all of it that can change a number, as words"""
        return " ".join([VERSION, *(str(value) for name, value in self.said().items() if name not in ("differs", "library"))])

    def said(self) -> dict[str, Any]:
        """-> what a record says of it"""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name != "make"}

    def whole(self) -> "Fed":
        """-> the same of whole images, by these words alone"""
        return replace(self, crop=1.0, rule="squash", by="", make=None, differs="whole images" if self.crop != 1 else self.differs)

    def __str__(self) -> str:
        cut = "" if self.crop == 1 else f" cut out of {self.shorter}"
        numbers = "in 0..1" if self.range == "unit" else f"mean {_list(self.mean)}, std {_list(self.std)}"
        order = "" if self.channels == "RGB" else "blue before green before red"
        by = f"by its own {self.by}" if self.by else ""
        size, pooled = f"{self.size} pixels{cut}", f"pooled: {self.pooled}" if self.pooled else ""
        said = (f"{self.tag} ({self.library})", size, self.interpolation, numbers, order, self.activation, pooled, by, self.differs)
        return ", ".join(filter(None, said))

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, H, W] -> float [B, 3, size, size]. Errors: InputError for images that would have to be padded."""
        with torch.autocast(images.device.type, enabled=False):
            if self.make is not None:
                made = self.make(images, self.size)
                return normalise(made * 255, self.mean, self.std) if self.range in STATISTICS else made
            pixels = self.pixels(images)
            return pixels / 255 if self.range == "unit" else normalise(pixels, self.mean, self.std)

    def pixels(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, H, W] -> what these words make of it before its numbers are scaled: [B, 3, size, size] in 0..255"""
        height, width = images.shape[-2:]
        if self.rule == "longest" and height != width:
            raise InputError(f"{self.tag} pads images that are no squares, which is not done here: set stream.image_size={self.size}")
        short, squash = min(height, width), self.rule == "squash"
        sides = tuple(self.shorter if squash or side == short else int(self.shorter * side / short) for side in (height, width))
        if sides == (height, width) == (self.size, self.size):
            return images.flip(1) if self.channels == "BGR" else images
        found = resized(images, sides, self.size, self.interpolation)
        return found.flip(1) if self.channels == "BGR" else found


def activations(module: nn.Module) -> str:
    """-> the names of a network's activations"""
    return "+".join(sorted({type(part).__name__ for part in module.modules() if ACTIVATION.search(type(part).__name__)}))


def in_unit(make: Callable, mean: tuple[float, ...], std: tuple[float, ...], images: Tensor, size: int) -> Tensor:
    """-> what a processor makes, in 0..1 again"""
    made = make(images, size)
    mean_, std_ = (torch.tensor(values, device=made.device)[:, None, None] for values in (mean, std))
    return made * std_ + mean_


def _list(values: tuple[float, ...]) -> str:
    return "/".join(f"{value:.4g}" for value in (values[:1] if len(set(values)) == 1 else values))
