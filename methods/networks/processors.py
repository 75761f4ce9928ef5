"""How a model of transformers is fed, from the image processor that its folder brings; held to that processor before it is believed."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from data.errors import InputError
from methods.networks.fed import Fed
from methods.networks.folders import sentences

LEVELS = 2.5  # grey levels by which our pixels may differ from the processor's, which rounds at every step
ONE_STEP = "one image without its tiles, resized twice in one step"


def processor(folder: Path, name: str, option: str) -> Any:
    """-> the image processor of a folder. Errors: InputError"""
    from transformers import AutoImageProcessor

    with sentences(name, f"the image processor of {option}"):
        return AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)


def fed_of(folder: Path, name: str, option: str, tag: str = "", activation: str = "", grid: int | None = None) -> Fed:
    """-> what the image processor of a folder makes of an image, for a network of transformers

    tag: of the record, by default the folder's name; grid: pixels of a side for models that take an image of any size. Errors: InputError,
    also for a processor that does what is not understood here: its pixels are compared with ours.
    """
    found, said = processor(folder, name, option), f"{option}={name}"
    size, crop = _sides(found.size), _sides(getattr(found, "crop_size", None)) if getattr(found, "do_center_crop", False) else {}
    scaled = bool(getattr(found, "do_normalize", True))
    given = {
        "library": "transformers",
        "tag": tag or Path(name).name,
        "mean": tuple(found.image_mean) if scaled else (0.0, 0.0, 0.0),
        "std": tuple(found.image_std) if scaled else (1.0, 1.0, 1.0),
        "interpolation": Image.Resampling(int(getattr(found, "resample", None) or 0)).name.lower(),
        "activation": activation,
    }
    if grid is not None:
        return Fed(size=grid, rule="squash", differs=f"a fixed grid of {grid} pixels, whatever the image's size", **given)
    tiles = _sides(getattr(found, "max_image_size", None))
    if "longest_edge" in tiles:
        fed = Fed(size=tiles["longest_edge"], rule="squash", through=size.get("longest_edge", 0), differs=ONE_STEP, **given)
    elif "height" in size:
        fed = Fed(size=crop.get("height", size["height"]), crop=crop.get("height", size["height"]) / size["height"], rule="squash", **given)
    elif "shortest_edge" in size:
        short = size["shortest_edge"]
        if getattr(found, "crop_pct", None) and not crop:  # ConvNeXT's
            fed = Fed(size=short, crop=found.crop_pct if short < 384 else 1.0, rule="shortest" if short < 384 else "squash", **given)
        else:
            fed = Fed(size=crop.get("height", short), crop=crop.get("height", short) / short, **given)
    else:
        raise InputError(f"{said} does not say how large its images are: name another model")
    return checked(fed, found, said)


def checked(fed: Fed, found: Any, said: str) -> Fed:
    """-> `fed`, that makes of an image what the processor makes. Errors: InputError where it does not."""
    for height, width in ((96, 96), (96, 128)):
        image = sample(height, width)
        theirs = pixels_of(found, image, said)
        ours = fed(image[None])[0]
        levels = (theirs - ours).mul(torch.tensor(fed.std)[:, None, None] * 255).abs().max().item() if theirs.shape == ours.shape else 255
        if levels > LEVELS:
            raise InputError(
                f"the image processor of {said} ({type(found).__name__}) prepares images in a way that is not understood here "
                f"(pixels differ by {levels:.0f} grey levels): name another model, or the same one in timm or open_clip"
            )
    return fed


def pixels_of(found: Any, image: Tensor, said: str) -> Tensor:
    """uint8 [3, H, W] -> what a processor makes of it, without tiles, [3, H', W']"""
    whole = {"do_image_splitting": False} if hasattr(found, "do_image_splitting") else {}
    with sentences(said.partition("=")[2], f"the image processor of {said.partition('=')[0]}"):
        made = found(images=[image], return_tensors="pt", **whole)["pixel_values"]
    return made.flatten(0, -4)[0] if made.ndim > 3 and made.shape[:-3].numel() == 1 else made


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
