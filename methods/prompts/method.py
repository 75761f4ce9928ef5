"""What the methods with prompts share: a frozen vision transformer, a pool of prompts, a head whose old rows stay as they are.

Cross-entropy is over the classes of the task alone, and no exemplar is kept. Shapes: B batch, C classes seen.
"""

from typing import Any, ClassVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from data.stream import Batch, Task
from methods.base import Stored
from methods.config import Prompting
from methods.finetune import Finetune
from methods.learning.training import fit
from methods.networks.prompted import Prompted


def masked_loss(logits: Tensor, labels: Tensor, first: int) -> Tensor:
    """Cross-entropy among the classes from `first` on, which are the task's: the others' rows of the head get no gradient. [B, C], [B]"""
    return cross_entropy(logits[:, first:].float(), labels - first)


class PromptMethod(Finetune):
    """Pool: options, width D of the network, its blocks -> a module as `Prompted.pool`, with `keys` [..., P, D] and `grow()` for a task"""

    Net = Prompted
    Pool: ClassVar[type]
    apart = True  # the loss compares the classes of a task among themselves alone
    zero_head: ClassVar[bool] = False  # do new rows of the head start at zero?

    def __init__(self, config: Prompting, accelerator: Accelerator):
        super().__init__(config, accelerator)
        if config.prompted:
            pool = self.Pool(config, self.net.backbone.features, len(self.net.backbone.module.blocks))
            self.net.pool = pool.to(accelerator.device)
        self.first, self.tasks = 0, 0

    @classmethod
    def variant(cls, config: Prompting) -> str:
        return config.name if config.prompted else f"{config.name}-no_prompts"

    def learn(self, task: Task) -> None:
        self.first = task.classes.start
        self.grow(task.classes.stop)
        fit(self.accelerator, self.net, task.train, self.loss, self.config, self.augment(task))

    @torch.no_grad()
    def grow(self, classes: int) -> None:
        old, self.tasks = self.net.classes, self.tasks + 1
        self.net.grow(classes)
        if self.zero_head:
            self.net.head.weight[old:], self.net.head.bias[old:] = 0, 0
        if self.net.pool is not None:
            self.net.pool.grow()

    def loss(self, net: nn.Module, batch: Batch) -> Tensor:
        logits, match = net(batch.inputs, with_match=True)
        return masked_loss(logits, batch.labels, self.first) - self.pull() * match.float().mean()

    def pull(self) -> float:
        """-> weight of the cosines between queries and chosen keys, which the loss is to enlarge"""
        return self.config.pull

    def stored(self) -> list[Stored]:
        """The prompts and their keys, in which past tasks are remembered."""
        if self.net.pool is None:
            return []
        kept = sum(value.numel() * value.element_size() for value in self.net.pool.state_dict().values())
        return [Stored("prompts", self.net.pool.keys.shape[-2], kept)]

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "tasks": self.tasks}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        classes = len(state["net"]["head.weight"]) if "head.weight" in state["net"] else 0
        for _ in range(state["tasks"] - self.tasks):
            self.grow(classes)
        self.net.load_state_dict(state["net"])
