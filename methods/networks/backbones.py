"""Named backbones, trained with a classifier, and frozen encoders, whose features are computed once.

Shapes: B batch, D features, K channels, H and W in pixels or positions, L tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from data.errors import InputError, one_of
from data.images.augment import MEAN, STD, normalise, resize
from methods.networks.encoders import LIBRARIES, Network, packaged, pretrained
from methods.networks.fed import RANGES, Fed
from methods.networks.resnet import CifarResNet
from methods.networks.towers import check_pooled


def resnet18(small_images: bool = False) -> Network:
    """-> ResNet-18 from scratch; for small images with a 3x3 stem of stride 1 and without its pooling, as the CIFAR protocols have it"""
    import timm

    model = timm.create_model("resnet18", num_classes=0)
    if small_images:
        model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    return Network(model)


def vit_tiny(size: int, patch: int) -> Network:
    """-> ViT-Tiny from scratch, for images of `size` pixels"""
    import timm

    return Network(timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=size, patch_size=patch), size=size)


# A backbone has `maps(images)`, the output of its last block, `pool(maps)` -> [B, D], the width D as `features`, and says whether
# its maps are `convolutional`, [B, K, H, W]. It may say the `size` of the images it takes, how it is `fed`, and `weights`.
BACKBONES: dict[str, Callable[[], nn.Module]] = {
    "resnet32": lambda: CifarResNet(5),  # 463,504 parameters; as iCaRL's release, without a ReLU before the pooling
    "resnet32_relu": lambda: CifarResNet(5, final_relu=True),  # the common variant: features are never negative
    "resnet18": resnet18,
    "resnet18_small": lambda: resnet18(small_images=True),  # for 32x32 images
    "vit_tiny": lambda: vit_tiny(224, 16),
    "vit_tiny_small": lambda: vit_tiny(32, 4),
    "packaged": packaged,  # EfficientNet-Lite0 with ImageNet weights
}


def make_backbone(name: str) -> nn.Module:
    """-> a backbone by its name above, or with published weights: `timm:…`, `open_clip:…`, as `encoders` says. Errors: InputError"""
    if name.partition(":")[0] in LIBRARIES:
        module = pretrained(name)
        check_pooled(name, module)
        return module
    one_of("method.backbone", name, BACKBONES)
    return BACKBONES[name]()


def fed_to_train(fed: Fed, options: Any) -> Fed:
    """-> how a published network is fed that trains on: as published, but with whole images where `fit` cuts its own crops out of them"""
    sized = fed.sized(None, options.input_range)
    return sized.whole() if options.augment else sized


def prepare(fed: Fed | None, images: Tensor, size: int | None) -> Tensor:
    """uint8 [B, 3, H', W'] -> what a backbone takes, float [B, 3, H, W]: as it is `fed`, or of `size` pixels with ImageNet's statistics"""
    return fed(images) if fed is not None else normalise(resize(images, size), MEAN, STD)


@dataclass(frozen=True)
class FrozenEncoder:
    """A frozen image encoder. Its outputs are computed once for each image and kept."""

    fed: Fed  # how an image becomes the module's input
    module: nn.Module
    weights: dict[str, str]  # sha256 of the weights, by file
    grid: int | None = 0  # side of the grid of positions kept beside the pooled feature; None = all positions and no pooled feature
    detail: str = ""  # what else can change its outputs: a dtype, a question

    @property
    def name(self) -> str:
        """-> encoder, weights and preprocessing in words; part of the cache's key"""
        return f"{self.fed.key} grid{self.grid} {self.detail}".strip()

    def preprocess(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, H, W], or float crops that already have its size -> the module's input"""
        fed = self.fed.whole() if images.is_floating_point() else self.fed
        return fed(images).contiguous(memory_format=torch.channels_last)

    @property
    def features(self) -> int:
        return self.module.width if self.grid is None else self.module.features

    @property
    def shape(self) -> tuple[int, int]:
        """-> L, D: vectors an image, and their width"""
        if hasattr(self.module, "shape"):
            return self.module.shape
        images = torch.zeros(1, 3, self.fed.size, self.fed.size, device=next(self.module.parameters()).device)
        with torch.inference_mode():
            return tuple(self.vectors(images).shape[1:])

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """what `preprocess` takes -> [B, L, D]: the pooled feature map, then its grid x grid positions row by row: L = 1 + grid^2"""
        return self.vectors(self.preprocess(images))

    def vectors(self, pixels: Tensor) -> Tensor:
        """the module's input, [B, 3, size, size] -> [B, L, D]"""
        maps = self.module.maps(pixels)
        if self.grid is None:
            return maps.flatten(2).transpose(1, 2) if self.module.convolutional else maps.flatten(1, -2)
        pooled = self.module.pool(maps)[:, None]
        return pooled if self.grid == 0 else torch.cat([pooled, adaptive_avg_pool2d(maps, self.grid).flatten(2).transpose(1, 2)], 1)

    def pooled(self, features: Tensor) -> Tensor:
        """What the encoder gave, [B, L, D] -> one vector an image, [B, D]"""
        return features[:, 0] if self.grid is not None else features.mean(1)

    def said(self) -> dict[str, Any]:
        """-> what a record says of it"""
        return {**self.fed.said(), "weights": self.weights}


def frozen_encoder(
    name: str,
    grid: int | None = 0,
    dtype: torch.dtype = torch.float32,
    size: int | None = None,
    range: str = "published",
) -> FrozenEncoder:
    """-> an encoder with published weights, frozen, that gives 1 + grid^2 vectors an image, or for None as many as it has.

    name: packaged, or what `make_backbone` takes with timm:, open_clip: or hf:; dtype is of the last alone; size: pixels of its images,
    None = as published; range: published, or unit for numbers in 0..1. Errors: InputError for an unknown name or missing weights.
    """
    if size is not None and size < 1:
        raise InputError(f"method.encoder_size={size} must be at least 1 pixel, or null for the published size")
    one_of("method.input_range", range, RANGES)
    if name.partition(":")[0] not in LIBRARIES:
        one_of("encoder", name, ("packaged",))
        module = packaged(size, range)
    else:
        module = pretrained(name, dtype, size, range)
    if grid is None and module.tells_one_vector:
        raise InputError(f"encoder '{name}' gives one vector an image: set method.visual_tokens=1 and method.qformer=0")
    if grid is not None:
        check_pooled(name, module)
    if grid and not module.convolutional:
        raise InputError(f"encoder '{name}' has no convolutional feature map to take visual tokens from: ask for one visual token")
    module.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    half = "" if dtype == torch.float32 or not name.startswith("hf:") else str(dtype)
    fed = replace(module.fed, pooled="") if grid is None else module.fed
    return FrozenEncoder(fed, module, module.weights, grid, half)


class Given(nn.Module):
    """In place of a frozen backbone whose features are computed once: takes them as they come, [B, L, D]. The encoder stays outside."""

    convolutional = False

    def __init__(self, encoder: FrozenEncoder):
        super().__init__()
        self.features, self.fed, self.size, self.weights = encoder.features, encoder.fed, encoder.fed.size, encoder.weights
        self.register_buffer("place", torch.zeros(1), persistent=False)  # on the device where the network is

    def maps(self, features: Tensor) -> Tensor:
        return features

    def pool(self, maps: Tensor) -> Tensor:
        """-> [B, D]"""
        return maps[:, 0]


def encoder_of(options: Any) -> FrozenEncoder:
    """-> the frozen encoder that a method's options name, one vector an image. Errors: InputError"""
    return frozen_encoder(options.encoder, size=options.encoder_size, range=options.input_range)


def frozen_backbone(options: Any) -> FrozenEncoder:
    """-> the frozen backbone that a method's options name, as an encoder: of the same cache as `encoder_of`. Errors: InputError"""
    if options.backbone != "packaged" and options.backbone.partition(":")[0] not in LIBRARIES:
        one_of("method.backbone", options.backbone, BACKBONES)
        raise InputError(
            f"method.backbone={options.backbone} has no published weights whose features could be kept: leave method.augment=true, "
            "or name packaged or timm:NAME"
        )
    return frozen_encoder(options.backbone, range=options.input_range)
