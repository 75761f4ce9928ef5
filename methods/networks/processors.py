"""How a model of transformers is fed: by the image processor that its folder brings, which makes the very inputs.

What a record says of it is held to what it makes: numbers are read off plain images, and size, crop and kernel are tried on a smooth one.
"""

import functools
import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from data.errors import InputError
from methods.networks.fed import Fed
from methods.networks.folders import sentences

LEVELS = 2.5  # grey levels by which what our words make of an image may differ from what its processor makes, which rounds elsewhere
ONE_IMAGE = "one image without its tiles"
SHAPES = ((96, 96), (96, 128), (160, 90), (40, 400), (300, 30), (600, 900))  # of images that a processor is tried with
SECRET = ("_processor_class", "_commit_hash", "name_or_path", "auto_map")  # in a processor's settings, what does nothing to images

RAISED = (ValueError, TypeError, LookupError, AttributeError, RuntimeError, ImportError, OSError, AssertionError)


def processor(folder: Path, name: str, option: str) -> Any:
    """-> the image processor of a folder. Errors: InputError"""
    from transformers import AutoImageProcessor

    with sentences(name, f"the image processor of {option}"):
        return AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)


def fed_of(folder: Path, name: str, option: str, tag: str = "", activation: str = "", grid: int | None = None) -> Fed:
    """-> what the image processor of a folder makes of images, for a network of transformers

    tag: of the record, by default the folder's name; grid: pixels of a side for models that take an image of any size. Errors: InputError,
    also for a processor that makes inputs whose size depends on the image, or whose numbers are no multiples of what it was given.
    """
    found, said = processor(folder, name, option), f"{option}={name}"
    size, crop = (_sides(getattr(found, one, None)) for one in ("size", "crop_size"))
    tiles = _sides(getattr(found, "max_image_size", None))
    crop = crop if getattr(found, "do_center_crop", False) else {}
    words: dict[str, Any] = {"rule": "squash"}
    if grid is not None:
        words["differs"] = f"a fixed grid of {grid} pixels, whatever the image's size"
    elif "longest_edge" in tiles:
        words |= {"through": size.get("longest_edge", 0), "differs": ONE_IMAGE}
    elif size.get("shortest_edge"):
        words["rule"] = "shortest"
    make = Made(found, said, grid)
    side = make.side
    if grid is None and "longest_edge" not in tiles:
        resized = size.get("height") or size.get("shortest_edge") or side
        if getattr(found, "crop_pct", None) and not crop and resized >= 384:  # ConvNeXT's
            words["rule"] = "squash"
        elif getattr(found, "crop_pct", None) and not crop:
            resized = int(resized / found.crop_pct)
        words["crop"] = min(1.0, side / resized)
    kernel = Image.Resampling(int(getattr(found, "resample", None) or 0)).name.lower()
    given = {"library": "transformers", "tag": tag or Path(name).name, "interpolation": kernel, "activation": activation, **words}
    fed = Fed(size=side, **make.numbers(side), **given, make=make)
    return replace(fed, by=f"{type(found).__name__} {digest(found)}{'' if whole_truth(fed) else ', in more steps than these words say'}")


@dataclass(frozen=True)
class Made:
    """A processor as what makes inputs: (uint8 [B, 3, H, W], size) -> float [B, 3, size, size]. grid: pixels, in place of its own rule."""

    processor: Any
    said: str
    grid: int | None = None

    def __call__(self, images: Tensor, size: int | None) -> Tensor:
        kind = type(self.processor).__name__
        # Pillow and its kernels are not on every device.
        here = "cpu" if kind.endswith("Pil") or getattr(self.processor, "resample", None) == Image.Resampling.LANCZOS else images.device
        try:
            made = self._made(images.to(here), size)
        except InputError:
            raise
        except RAISED as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".:")
            raise InputError(self._refusal(f"it takes no plain images: {first}")) from None
        if not isinstance(made, Tensor) or made.ndim != 4 or made.shape[:2] != (len(images), 3) or made.shape[2] != made.shape[3]:
            raise InputError(self._refusal("it makes of an image something else than one square of three channels"))
        if size is not None and made.shape[-1] != size:
            raise InputError(f"the image processor of {self.said} ({kind}) makes no images of {size} pixels: leave method.encoder_size out")
        return made.to(images.device, torch.float32)

    def _made(self, images: Tensor, size: int | None) -> Any:
        """-> pixels as the processor has them, without tiles; None where parts of them are padding"""
        found = self.processor
        if self.grid is not None:
            from transformers.image_processing_backends import TorchvisionBackend

            pixels = TorchvisionBackend.resize(found, images, _size(height=self.grid, width=self.grid), found.resample)
            return found.rescale_and_normalize(pixels, True, found.rescale_factor, True, found.image_mean, found.image_std)
        given: dict[str, Any] = {"return_tensors": "pt", "input_data_format": "channels_first", **self._sized(size)}
        if tiled := hasattr(found, "do_image_splitting"):
            given["do_image_splitting"] = False
        made = found(images=[[one] for one in images] if tiled else list(images), **given)
        masks = [value for name, value in made.items() if "mask" in name and isinstance(value, Tensor)]
        if not all(bool(mask.bool().all()) for mask in masks):
            return None
        pixels = made["pixel_values"]
        return pixels[:, 0] if isinstance(pixels, Tensor) and pixels.ndim == 5 and pixels.shape[1] == 1 else pixels

    def _sized(self, size: int | None) -> dict[str, Any]:
        """-> what tells the processor of another size than its own, of which the same share is cut out"""
        if size is None or size == (own := self.side):
            return {}
        sides, crop = _sides(self.processor.size), getattr(self.processor, "crop_size", None)
        scaled = {key: int(value * size / own + 1e-6) for key, value in sides.items()}
        return {"size": scaled, **({"crop_size": {"height": size, "width": size}} if crop is not None else {})}

    @functools.cached_property
    def side(self) -> int:
        """-> pixels of a side of what it makes of every image. Errors: InputError where it is not one number"""
        if self.grid is not None:
            return self.grid
        sides = {self(sample(*shape)[None], None).shape[-1] for shape in SHAPES}
        if len(sides) > 1:
            raise InputError(self._refusal(f"of {min(sides)} or {max(sides)} pixels, as the image is"))
        two = torch.stack([sample(96, 128), sample(96, 128).flip(2)])
        if not torch.equal(self(two, None)[1:], self(two[1:], None)):
            raise InputError(self._refusal("what it makes of an image depends on others"))
        return sides.pop()

    def numbers(self, side: int) -> dict[str, Any]:
        """-> mean and std of images in 0..1, and the order of the channels, as they show in what it makes. Errors: InputError"""
        plain = torch.zeros(6, 3, 96, 96, dtype=torch.uint8)
        for row, (channel, value) in enumerate([(0, 255), (1, 255), (2, 255)]):
            plain[row, channel] = value
        plain[3], plain[4] = 255, 51  # white, a dark grey; black
        made = self(plain, None).double()
        flat = made.mean((2, 3))  # [6, 3]
        low, high = flat[5], flat[3]
        lit = [int((row - low).abs().argmax()) for row in flat[:3]]
        order = {(0, 1, 2): "RGB", (2, 1, 0): "BGR"}.get(tuple(lit))
        even = (made - flat[:, :, None, None]).abs().max() < 1e-3 and (flat[4] - (low + 0.2 * (high - low))).abs().max() < 1e-3
        if order is None or not even or not (high > low).all():
            raise InputError(self._refusal("it does not scale each channel's numbers"))
        std = 1 / (high - low)
        return {"mean": _near(-low * std, self.processor, "mean"), "std": _near(std, self.processor, "std"), "channels": order}

    def _refusal(self, why: str) -> str:
        return (
            f"the image processor of {self.said} ({type(self.processor).__name__}) prepares images in a way that is not understood here "
            f"({why}): name another model, or the same one in timm or open_clip"
        )


def whole_truth(fed: Fed) -> bool:
    """-> do the words alone make of images what the processor makes, but for its rounding? Those of two resizings do not."""
    if fed.through:
        return True
    std = torch.tensor(fed.std)[:, None, None] * 255
    alone = replace(fed, make=None, rule="squash" if fed.rule == "longest" else fed.rule)
    return all(((fed(one) - alone(one)) * std).abs().max() < LEVELS for one in (sample(96, 96)[None], sample(96, 128)[None]))


def digest(found: Any) -> str:
    """-> 8 hex digits of a processor's settings"""
    settings = {key: value for key, value in found.to_dict().items() if key not in SECRET}
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:8]


def _near(values: Tensor, found: Any, name: str) -> tuple[float, ...]:
    """-> the numbers as the processor's settings have them where they are these; those that it applies"""
    stated = getattr(found, f"image_{name}", None)
    stated = None if stated is None else torch.tensor(stated, dtype=torch.float64).expand(3)
    if stated is not None and (stated - values).abs().max() < 1e-5:
        return tuple(stated.tolist())
    return tuple(round(value, 6) + 0.0 for value in values.tolist())


def _size(**sides: int) -> Any:
    from transformers.image_utils import SizeDict

    return SizeDict(**sides)


def sample(height: int, width: int) -> Tensor:
    """-> uint8 [3, height, width], smooth as photos mostly are, and another one in each channel"""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    waves = [torch.sin(5 * x + 3 * y), torch.cos(4 * y - 2 * x), torch.sin(7 * x * y + 1)]
    return torch.stack([(128 + 90 * wave + 20 * y).clamp(0, 255) for wave in waves]).round().to(torch.uint8)


def _sides(size: Any) -> dict[str, int]:
    """-> the sides that a processor names, as a dictionary"""
    if size is None:
        return {}
    if isinstance(size, int):
        return {"shortest_edge": size}
    return {key: value for key, value in dict(size).items() if value is not None}
