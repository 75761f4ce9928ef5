"""WA: Maintaining Discrimination and Fairness in Class Incremental Learning (Zhao et al., CVPR 2020, arXiv 1911.07053).

Replay with distillation, after which the new classes' weights are scaled to the old ones' length. The paper also keeps weights from
becoming negative after every step, so that length and logit go together; that is left out, as in the common reimplementations.
Shapes: B batch, C classes seen, O old classes, D features.
"""

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.functional import cross_entropy

from data.errors import InputError
from data.stream import Batch, Task
from methods import config
from methods.base import Stored
from methods.lwf import old_logits, take_teacher, teacher_bytes
from methods.networks.classifier import Classifier
from methods.replay import Replay


@torch.no_grad()
def align(weight: Tensor, old: int) -> None:
    """Section 4.3: the rows of the new classes times the ratio of mean lengths, old to new. weight: [C, D], changed in place"""
    lengths = weight.norm(dim=1)
    weight[old:] *= lengths[:old].mean() / lengths[old:].mean()


def wa_loss(logits: Tensor, labels: Tensor, old: Tensor | None, temperature: float) -> Tensor:
    """Equations 2 to 4: cross-entropy over all classes and softmax distillation on the old ones, by their shares of the classes.

    logits: [B, C]; old: the aligned network's, [B, O], or None in the first task.
    """
    loss = cross_entropy(logits, labels)
    if old is None:
        return loss
    share = old.shape[1] / logits.shape[1]
    distillation = cross_entropy(logits[:, : old.shape[1]] / temperature, (old / temperature).softmax(1))
    return (1 - share) * loss + share * distillation


class WA(Replay):
    Config = config.WA
    scenarios = ("class",)  # as LwF

    def __init__(self, config: config.WA, accelerator: Accelerator):
        super().__init__(config, accelerator)
        if config.head != "linear":
            raise InputError(f"method.head={config.head} has no lengths of weights to align: wa needs method.head=linear")
        self.teacher: Classifier | None = None  # from the second task on, while it is learnt

    def learn(self, task: Task) -> None:
        old, self.teacher = self.net.classes, take_teacher(self.net, task)
        super().learn(task)
        self.teacher = None
        if old:
            align(self.net.head.weight, old)

    def loss(self, net: Classifier, batch: Batch) -> Tensor:
        old = old_logits(self.teacher, batch)
        return wa_loss(net(batch.inputs).float(), batch.labels, old, self.config.temperature)

    def stored(self) -> list[Stored]:
        return [*super().stored(), *teacher_bytes(self.net)]
