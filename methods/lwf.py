"""LwF-MC: learning without forgetting for many classes, as the baseline of iCaRL (Rebuffi et al., CVPR 2017, section 4.1).

iCaRL's loss without exemplars, and the network's own outputs as classifier. Shapes: B batch, C classes seen, O old classes.
"""

import copy

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

from data.errors import InputError
from data.stream import Batch, Task
from methods import config
from methods.base import Stored
from methods.finetune import Finetune
from methods.networks.classifier import Classifier


def take_teacher(net: Classifier, task: Task) -> Classifier | None:
    """-> the network as it is before the update, in eval mode: neither its weights nor its batch statistics change any more.

    None in the first task. Errors: InputError where the task brings no new class, as in domain-incremental streams.
    """
    if net.classes >= task.classes.stop:
        raise InputError(f"task {task.index + 1} brings no new class, and distillation needs new ones: choose a class-incremental stream")
    return copy.deepcopy(net).eval().requires_grad_(False) if net.classes else None


@torch.no_grad()
def old_logits(teacher: Classifier | None, batch: Batch) -> Tensor | None:
    """-> the teacher's logits [B, O] on the same augmented images"""
    return teacher(batch.inputs).float() if teacher is not None else None


def teacher_bytes(net: Classifier) -> list[Stored]:
    """-> what the frozen copy of `net` that the next task needs takes"""
    return [Stored("teacher network", 1, sum(value.numel() * value.element_size() for value in net.state_dict().values()))]


def soft_targets(labels: Tensor, classes: int, old: Tensor | None) -> Tensor:
    """iCaRL, Algorithm 3: q on old outputs for every row, whatever its label, and the one-hot label on new outputs.

    labels: int64 [B]; old: logits [B, O] of the network before the update, or None. -> [B, C]
    """
    targets = one_hot(labels, classes).float()
    if old is not None:
        targets[:, : old.shape[1]] = old.sigmoid()
    return targets


def distillation_loss(logits: Tensor, labels: Tensor, old: Tensor | None, beta: float = 1.0, outputs: int | None = None) -> Tensor:
    """iCaRL, Algorithm 3, as a mean over rows; over outputs a sum, divided by `outputs`, or by their number where it is None.

    logits: [B, C]; beta: weight of the old outputs.
    """
    weight = torch.ones(logits.shape[1], device=logits.device)
    if old is not None:
        weight[: old.shape[1]] = beta
    loss = binary_cross_entropy_with_logits(logits.float(), soft_targets(labels, logits.shape[1], old), weight)
    return loss if outputs is None else loss * (logits.shape[1] / outputs)


class LwF(Finetune):
    Config = config.LwF
    scenarios = ("class",)  # the old outputs are distilled, the new ones learnt: a task has to bring new ones

    def __init__(self, config: config.LwF, accelerator: Accelerator):
        super().__init__(config, accelerator)
        self.teacher: Classifier | None = None  # from the second task on, while it is learnt

    def learn(self, task: Task) -> None:
        self.teacher = take_teacher(self.net, task)
        super().learn(task)
        self.teacher = None

    def loss(self, net: Classifier, batch: Batch) -> Tensor:
        old = old_logits(self.teacher, batch)
        return distillation_loss(net(batch.inputs), batch.labels, old, self.config.beta, self.config.outputs)

    def stored(self) -> list[Stored]:
        return teacher_bytes(self.net)
