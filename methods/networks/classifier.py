"""A backbone and a linear head that grows with the classes.

Shapes: B batch, C classes seen, D features, K channels of the last feature map, H and W its size.
"""

from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from data.errors import InputError, one_of
from methods.config import Backboned
from methods.networks.backbones import FrozenEncoder, Given, fed_to_train, make_backbone, prepare
from methods.networks.fed import RANGES

HEADS = ("linear", "cosine")


class CosineHead(nn.Linear):
    """Logits are cosines between feature and class weight, times one learnt scale (LUCIR, equation 4). No bias."""

    def __init__(self, features: int, classes: int):
        super().__init__(features, classes, bias=False)
        self.scale = nn.Parameter(torch.tensor(10.0))

    def forward(self, features: Tensor) -> Tensor:
        """[B, D] -> [B, C]"""
        return self.scale * linear(normalize(features, dim=1), normalize(self.weight, dim=1))


def _leave_out_backbone(net: nn.Module, state: dict, prefix: str, _metadata: dict) -> None:
    for name in [name for name in state if name.startswith(f"{prefix}backbone.")]:
        del state[name]


def _need_no_backbone(net: nn.Module, keys) -> None:
    keys.missing_keys[:] = [name for name in keys.missing_keys if "backbone." not in name]


@torch.no_grad()
def widened(old: nn.Linear | None, head: nn.Linear) -> nn.Linear:
    """-> `head`, whose first columns are those of the smaller `old`, bit for bit"""
    for name, kept in old.named_parameters() if old is not None else ():
        parameter = head.get_parameter(name)
        (parameter[: len(kept)] if kept.ndim else parameter).copy_(kept)
    return head


class Classifier(nn.Module):
    """Takes uint8 images, which it resizes and normalises itself, and gives a logit for each class seen.

    A frozen backbone stays in eval mode and out of the state. encoder: if given, its features [B, L, D] come in place of images.
    Errors: InputError for an unknown backbone or head.
    """

    def __init__(self, options: Backboned, encoder: FrozenEncoder | None = None):
        super().__init__()
        one_of("method.head", options.head, HEADS)
        self.given, self.image_size, self.kind = encoder is not None, options.image_size, options.head
        self.backbone = Given(encoder) if encoder is not None else make_backbone(options.backbone)
        size = getattr(self.backbone, "size", None)
        if size not in (None, options.image_size):
            raise InputError(f"method.backbone={options.backbone} takes images of {size} pixels: set method.image_size={size}")
        published = getattr(self.backbone, "fed", None)
        one_of("method.input_range", options.input_range, RANGES)
        if published is None and options.input_range != "published":
            raise InputError(f"method.input_range={options.input_range} is for published weights, as timm:NAME: leave it out")
        self.fed = fed_to_train(published, options) if published else None
        self.frozen = options.frozen
        if self.frozen:
            self.backbone.requires_grad_(False)
            self.register_state_dict_post_hook(_leave_out_backbone)
            self.register_load_state_dict_post_hook(_need_no_backbone)
        self.head: nn.Linear | None = None  # until the first classes arrive
        if options.channels_last:
            self.backbone.to(memory_format=torch.channels_last)  # the convolutions then keep their inputs so, too

    def train(self, mode: bool = True) -> "Classifier":
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    @property
    def classes(self) -> int:
        return self.head.out_features if self.head is not None else 0

    def grow(self, classes: int) -> None:
        """Widen the head to `classes` outputs; the old columns stay as they are, bit for bit."""
        make = CosineHead if self.kind == "cosine" else nn.Linear
        device = next(chain(self.backbone.parameters(), self.backbone.buffers())).device
        self.head = widened(self.head, make(self.backbone.features, classes).to(device))

    def pixels(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, H', W'] -> what the backbone takes, float [B, 3, H, W]; features as they are"""
        return images if self.given else prepare(self.fed, images, self.image_size)

    def maps(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, H', W'] -> [B, K, H, W], the output of the last block"""
        return self.backbone.maps(self.pixels(images))

    def features(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, H', W'] -> [B, D]"""
        return self.backbone.pool(self.maps(images))

    def classify(self, maps: Tensor) -> Tensor:
        """[B, K, H, W] -> logits [B, C]"""
        return self.head(self.backbone.pool(maps))

    def forward(self, images: Tensor, with_maps: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """uint8 [B, 3, H', W'] -> logits [B, C], and the last feature maps [B, K, H, W] if asked"""
        maps = self.maps(images)
        if with_maps:
            maps = maps.float()  # accelerate casts what leaves `forward`: only so are the logits made from these very maps
        logits = self.classify(maps)
        return (logits, maps) if with_maps else logits
