"""MAE-CIL: Masked Autoencoders are Efficient Class Incremental Learners (Zhai et al., ICCV 2023, arXiv 2308.12510).

A ViT learns to classify images and to complete masked ones, so that of an exemplar its visible patches are enough: at 75%
masking four fit in the place of one. Before each task the decoder completes them, and they are rehearsed like other images.
Shapes: B batch, M exemplars, N rows, S side of an image in pixels, L patches.
"""

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.functional import cross_entropy

from data.errors import InputError
from data.images.augment import Augment
from data.stream import Batch, Rows, Task
from methods import config
from methods.base import Stored
from methods.config import Training, stage
from methods.learning.training import current, embed, fit
from methods.lwf import old_logits, take_teacher, teacher_bytes
from methods.mae_cil.memory import KEPT, NEW, PatchMemory, rehearsed
from methods.mae_cil.network import BilateralMAE
from methods.mae_cil.patches import as_pixels, sized, visible_count
from methods.replay import Replay

SHOWN = 8  # exemplars in a picture


def reconstruction_loss(reconstruction: Tensor, pixels: Tensor, counted: Tensor) -> Tensor:
    """L_rec: |rec - x| over the pixels that count, a mean over all. Visible ones would be copied, and so add nothing."""
    return ((reconstruction - pixels).abs() * counted).mean()


def detail_loss(spectrum: Tensor, target: Tensor) -> Tensor:
    """L_det: the modulus of the difference of two spectra, mean over coefficients. complex [B, 3, S, S], twice"""
    return (spectrum - target).abs().mean()


class MAECIL(Replay):
    Config = config.MAECIL
    Net = BilateralMAE

    def __init__(self, config: config.MAECIL, accelerator: Accelerator):
        super().__init__(config, accelerator)
        for name in ("mask_ratio", "detail_mask_ratio"):
            if not 0 <= getattr(config, name) < 1:
                raise InputError(f"method.{name}={getattr(config, name)} is no share that leaves patches visible: choose one in 0..1")
        if config.detail and config.detail_mask_ratio >= config.mask_ratio:
            raise InputError(
                f"method.detail_mask_ratio={config.detail_mask_ratio} hides as much as method.mask_ratio={config.mask_ratio}, and leaves "
                "no detail to learn: lower it, or set method.detail=false"
            )
        if config.own_copy:
            raise InputError("method.own_copy has no effect on mae_cil, which keeps patches of its own: leave it out")
        if not 0 <= config.completed <= 1:
            raise InputError(f"method.completed={config.completed} is no share: choose one from 0 to 1")
        if config.distillation:
            self.scenarios = ("class",)  # as LwF
        self.memory = PatchMemory(config)
        self.teacher: BilateralMAE | None = None  # while a task is learnt with distillation

    @classmethod
    def variant(cls, config: config.MAECIL) -> str:
        parts = [config.name, "" if config.masked_memory else "whole", "" if config.detail else "plain"]
        return "-".join(filter(None, parts))

    def learn(self, task: Task) -> None:
        self.teacher = take_teacher(self.net, task) if self.config.distillation else None
        rows = self.rehearsed(task.train)
        self.net.grow(task.classes.stop)
        side = rows.store[rows.index[:1]].shape[-1]
        patches = ((self.config.image_size or side) // self.config.patch) ** 2
        if visible_count(patches, self.config.mask_ratio) == patches:
            raise InputError(
                f"method.mask_ratio={self.config.mask_ratio} hides none of an image's {patches} patches: raise it, or lower method.patch"
            )
        augment = Augment(padding=side // 8, flip=self.config.flip and task.mirrors)  # 4 pixels of 32, as is usual for CIFAR
        fit(self.accelerator, self.net, rows, self.loss, self.config, augment)
        self.teacher = None
        self.memory.update(task.train, task.classes, self.embedded, current().generator(-1))
        if self.config.balanced_epochs and task.index and not self.memory.nothing:
            images, labels = self.exemplars()
            rows = Rows(images, torch.arange(len(images)), labels)
            self.net.settle(True)
            fit(self.accelerator, self.net, rows, self.balanced_loss, self.balanced(), augment)
            self.net.settle(False)

    def rehearsed(self, train: Rows) -> Rows:
        """-> the task's rows and all exemplars, completed by the network as it is before the task"""
        if not len(self.memory):
            return rehearsed(train, torch.empty(0, 4, 0, 0, dtype=torch.uint8), torch.empty(0, dtype=torch.int64), self.config.image_size)
        return rehearsed(train, *self.exemplars(), self.config.image_size)

    def exemplars(self) -> tuple[Tensor, Tensor]:
        """-> all exemplars uint8 [M, 4, S, S], completed by the network as it is now, and their classes int64 [M]"""
        images, visible, labels = self.memory.images(sorted(self.memory.lists))
        whence = as_pixels(visible, self.config.patch).to(torch.uint8) * KEPT
        return torch.cat([self.completed(images, visible), whence], 1), labels

    def completed(self, images: Tensor, visible: Tensor) -> Tensor:
        """uint8 [M, 3, S, S], bool [M, L] -> uint8 [M, 3, S, S]"""
        rows = Rows(images, torch.arange(len(images)), torch.zeros(len(images), dtype=torch.int64))

        def complete(batch: Batch) -> tuple[Tensor]:
            return (self.net.complete(batch.inputs, visible[batch.index.cpu()].to(batch.inputs.device)),)

        return embed(self.accelerator, complete, rows, self.config.batch_size)[0]

    def loss(self, net: BilateralMAE, batch: Batch) -> Tensor:
        """L = L_cls + lambda_rec L_rec + lambda_det L_det (+ distillation). Of a completed image only the kept pixels are aimed at.

        Of old classes the classifier would see completed images alone and of new ones none, and learn to tell the completion from the
        class: so a share of the new images is classified as it will be rehearsed. The paper does not say how it avoids this.
        """
        images, options = batch.inputs, self.config
        noise = current().micro.uniform((images.shape[-1] // options.patch) ** 2 + 1).to(images.device)
        new, share = (images[:, 3] == NEW).flatten(1).any(1), options.completed if options.masked_memory else 0.0
        out = net(images, noise[:, 1:], new & (noise[:, 0] < share))
        loss = cross_entropy(out.logits.float(), batch.labels)
        genuine = images[:, 3:] >= KEPT
        loss = loss + options.reconstruction * reconstruction_loss(out.reconstruction, out.pixels, out.hidden & genuine)
        if out.spectrum is not None:
            loss = loss + options.detail_weight * detail_loss(out.spectrum, out.target)
        if self.teacher is not None:
            old = old_logits(self.teacher, batch)
            loss = loss + options.distillation * cross_entropy(out.logits[:, : old.shape[1]].float(), old.softmax(1))
        return loss

    def balanced_loss(self, net: BilateralMAE, batch: Batch) -> Tensor:
        return cross_entropy(net(batch.inputs).float(), batch.labels)

    def balanced(self) -> Training:
        """-> how the classifier is trained on the memory, which holds as many images of each class"""
        return stage(self.config, epochs=self.config.balanced_epochs, lr=self.config.balanced_lr)

    def pictures(self, task: Task) -> dict[str, Tensor]:
        """-> of some exemplars of the task the original, the visible patches and what the decoder makes of them; uint8 [n, 3, S, S]"""
        labels = [label for label in task.classes if label in self.memory.lists]
        if not labels:
            return {}
        images, visible, _ = self.memory.images(labels)
        rows = torch.cat([self.memory.lists[label] for label in labels])
        some = torch.linspace(0, len(rows) - 1, min(SHOWN, len(rows))).round().long()
        originals = sized(task.train.store[rows[some]], self.config.image_size)
        completed = self.completed(images[some], visible[some])
        return {"original": originals, "visible patches": images[some], "reconstruction": completed}

    def stored(self) -> list[Stored]:
        return self.memory.stored() + (teacher_bytes(self.net) if self.config.distillation else [])

    def weights(self) -> dict[str, str]:
        return {}  # it starts from nothing

    def models(self) -> dict[str, dict[str, Any]]:
        return {}

    def parameters(self) -> dict[str, int]:
        """-> the usual numbers, and how many of them only completing images needs"""
        extra = [self.net.decoder, self.net.to_values]
        count = sum(p.numel() for part in extra for p in part.parameters()) + self.net.mask_token.numel()
        return {**super().parameters(), "reconstruction": count}
