"""A backbone more for each task, side by side under one head.

Shapes: B batch, C classes seen, n new classes, D features of one backbone, T backbones, H and W in pixels.
"""

import copy

import torch
from torch import Tensor, nn

from data.errors import InputError
from methods.config import Backboned
from methods.networks.backbones import prepare
from methods.networks.classifier import Classifier


class Expanding(Classifier):
    """Only the newest backbone trains; the past ones stay as they are, in eval mode. Both heads start anew when it grows.

    Errors: InputError for a frozen backbone, and for another head than a linear one.
    """

    def __init__(self, options: Backboned):
        if options.frozen or options.head != "linear":
            raise InputError("der_yan trains a backbone a task under a linear head: leave method.frozen=false and method.head=linear")
        super().__init__(options)
        self.past = nn.ModuleList()
        self.aux: nn.Linear | None = None  # tells the new classes apart, and from the old ones together, while they are learnt
        self.sizes: list[int] = []  # classes seen after each growth
        self.settled = False  # the head alone trains

    def train(self, mode: bool = True) -> "Expanding":
        super().train(mode)
        self.past.eval()
        if self.settled:
            self.backbone.eval()
        return self

    def grow(self, classes: int) -> None:
        """Set the newest backbone aside and train a copy of it, under new heads for `classes` outputs."""
        if self.sizes:
            newest = copy.deepcopy(self.backbone)
            self.past.append(self.backbone.requires_grad_(False).eval())
            self.backbone = newest
            device = next(newest.parameters()).device
            self.aux = nn.Linear(newest.features, classes - self.classes + 1, bias=False).to(device)
        self.sizes.append(classes)
        self.new_head()

    def new_head(self) -> None:
        device, wide = next(self.backbone.parameters()).device, self.backbone.features * (len(self.past) + 1)
        self.head = nn.Linear(wide, self.sizes[-1], bias=False).to(device)

    def settle(self, settled: bool) -> None:
        """Let the head alone train, a new one, or all of the newest backbone again."""
        self.settled = settled
        self.backbone.requires_grad_(not settled)
        if settled:
            self.aux = None
            self.new_head()

    def features(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, H', W'] -> [B, T D], the newest backbone's last"""
        pixels = prepare(self.backbone, images, self.image_size)
        with torch.no_grad():
            past = [backbone.pool(backbone.maps(pixels)) for backbone in self.past]
        return torch.cat([*past, self.backbone.pool(self.backbone.maps(pixels))], 1)

    def forward(self, images: Tensor, with_aux: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """uint8 [B, 3, H', W'] -> logits [B, C], and those of the auxiliary head [B, n + 1] if asked"""
        features = self.features(images)
        logits = self.head(features)
        return (logits, self.aux(features[:, -self.backbone.features :])) if with_aux else logits

    def extractor_bytes(self) -> int:
        values = [*self.past.state_dict().values(), *self.backbone.state_dict().values()]
        return sum(value.numel() * value.element_size() for value in values)
