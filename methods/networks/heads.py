"""A backbone that learns slowly under a linear head for each task, side by side.

Shapes: B batch, C classes seen, D features, K channels of the last feature map, H and W its size.
"""

import copy
from itertools import chain

import torch
from torch import Tensor, nn

from data.errors import InputError
from methods.config import SLCA
from methods.networks.classifier import Classifier


class Heads(nn.ModuleList):
    """The logits of each task's own head, in the order of the tasks. Where one is added, the former ones cease to train."""

    @property
    def sizes(self) -> list[int]:
        """-> classes of each task"""
        return [head.out_features for head in self]

    @property
    def out_features(self) -> int:
        return sum(self.sizes)

    def add(self, head: nn.Linear) -> None:
        self.requires_grad_(False)
        nn.init.trunc_normal_(head.weight, std=0.02)
        nn.init.zeros_(head.bias)
        self.append(head)

    def bytes(self) -> int:
        return sum(value.numel() * value.element_size() for value in self.parameters())

    def forward(self, features: Tensor) -> Tensor:
        """[B, D] -> [B, C]"""
        return torch.cat([head(features) for head in self], 1)


class SlowLearner(Classifier):
    """The backbone's learning rate is the heads' times `slow`. Errors: InputError for other heads than linear ones."""

    def __init__(self, options: SLCA):
        if options.head != "linear":
            raise InputError(f"slca aligns linear heads, not those of method.head={options.head}: leave method.head=linear")
        super().__init__(options)
        self.rates = {"backbone.": options.slow}
        self.aligned: Heads | None = None  # a copy of the heads that answers in their place

    def grow(self, classes: int) -> None:
        """Add a head, which is the only one to train."""
        device = next(chain(self.backbone.parameters(), self.backbone.buffers())).device
        self.head, self.aligned = self.head if self.classes else Heads(), None
        self.head.add(nn.Linear(self.backbone.features, classes - self.classes).to(device))

    def copied(self) -> Heads:
        """-> the copy that answers from now on, made anew, all of which trains"""
        self.aligned = copy.deepcopy(self.head).requires_grad_(True)
        return self.aligned

    def classify(self, maps: Tensor) -> Tensor:
        """[B, K, H, W] -> logits [B, C]"""
        return (self.head if self.aligned is None else self.aligned)(self.backbone.pool(maps))

    def restore(self, state: dict[str, Tensor]) -> None:
        """Become what gave this state."""
        sizes = [len(state[name]) for name in state if name.startswith("head.") and name.endswith(".bias")]
        for size in sizes[len(self.head or ()) :]:
            self.grow(self.classes + size)
        if any(name.startswith("aligned.") for name in state):
            self.copied()
        self.load_state_dict(state)
        self.eval()  # as `fit` leaves it
