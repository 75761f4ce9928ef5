"""iCaRL: Incremental Classifier and Representation Learning (Rebuffi et al., CVPR 2017, arXiv 1611.07725).

The head only trains the representation; images go to the nearest mean of exemplars. Shapes: B batch, C classes seen,
O old classes, N rows, D features.
"""

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from data.errors import InputError, one_of
from data.stream import Batch, Rows, Task
from methods import config
from methods.base import Prediction, Stored
from methods.lwf import distillation_loss, old_logits, take_teacher, teacher_bytes
from methods.networks.classifier import Classifier
from methods.replay import Replay

LOSSES = ("bce", "ce_kd")


def class_means(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Equation 2, with the paper's rule that all is normalised, the result of an average too. [N, D], [N] -> [C, D]"""
    rows = normalize(features.double(), dim=1)
    sums = torch.zeros(classes, rows.shape[1], dtype=rows.dtype, device=rows.device).index_add_(0, labels.to(rows.device), rows)
    return normalize(sums, dim=1).float()  # the direction of a sum is that of the mean


def nearest_mean(features: Tensor, means: Tensor) -> Tensor:
    """Algorithm 1: at unit length the nearest mean is that of the largest cosine. [B, D], [C, D] -> [B, C]

    float64, which mixed precision leaves alone: near means must not become equal by rounding.
    """
    return normalize(features.double(), dim=1) @ means.double().T


def ce_kd_loss(logits: Tensor, labels: Tensor, old: Tensor | None, temperature: float) -> Tensor:
    """Cross-entropy over all classes, and softmax distillation on the old ones (weight 1): what most later papers call iCaRL."""
    loss = cross_entropy(logits.float(), labels)
    if old is None:
        return loss
    return loss + cross_entropy(logits[:, : old.shape[1]].float() / temperature, (old / temperature).softmax(1))


class ICaRL(Replay):
    Config = config.ICaRL
    scenarios = ("class",)  # as LwF
    scoring = "nearest mean"

    def __init__(self, config: config.ICaRL, accelerator: Accelerator):
        super().__init__(config, accelerator)
        one_of("method.loss", config.loss, LOSSES)
        if self.memory.nothing:
            raise InputError("method.memory=0 leaves iCaRL without exemplars to classify by: keep at least one of each class")
        if config.mirror and self.encoder is not None:
            raise InputError("method.mirror=true needs mirror images, and method.augment=false reads none with a frozen backbone: drop one")
        self.teacher: Classifier | None = None
        self.means = torch.empty(0, 0, device=accelerator.device)  # [C, D]

    @classmethod
    def variant(cls, config: config.ICaRL) -> str:
        return config.name if config.loss == "bce" else f"{config.name}-{config.loss}"

    def learn(self, task: Task) -> None:
        """Algorithms 2 to 5: update the representation, reduce the old exemplar sets, construct the new ones; then the means."""
        self.teacher = take_teacher(self.net, task)
        super().learn(task)
        self.teacher = None
        self.means = self.means_of(self.memory.rows(task.train), self.net.classes)

    def loss(self, net: Classifier, batch: Batch) -> Tensor:
        """Algorithm 3. q comes from the network before the update, on the same augmented images."""
        old, logits = old_logits(self.teacher, batch), net(batch.inputs)
        if self.config.loss == "ce_kd":
            return ce_kd_loss(logits, batch.labels, old, self.config.temperature)
        return distillation_loss(logits, batch.labels, old, outputs=self.config.outputs)

    def means_of(self, exemplars: Rows, classes: int) -> Tensor:
        """-> [C, D], with the representation as it is now"""
        features, labels = self.embedded(exemplars), exemplars.labels
        if self.config.mirror:
            features, labels = torch.cat([features, self.embedded(exemplars, mirrored=True)]), labels.repeat(2)
        return class_means(features, labels, classes)

    def predict(self, inputs: Tensor) -> Prediction:
        """Algorithm 1. The head's own scores ("hybrid1" of Table 1) go along."""
        maps = self.net.maps(inputs)
        return Prediction(nearest_mean(self.net.backbone.pool(maps), self.means), head_scores=self.net.classify(maps))

    def stored(self) -> list[Stored]:
        means = Stored("class means", len(self.means), self.means.numel() * self.means.element_size())
        return [*self.memory.stored(), means, *teacher_bytes(self.net)]

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "means": self.means}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.means = state["means"].to(self.accelerator.device)
