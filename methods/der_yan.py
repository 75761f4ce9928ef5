"""DER: Dynamically Expandable Representation (Yan, Xie, He, CVPR 2021, arXiv 2103.16788); not Dark Experience Replay.

Each task adds an extractor, which starts as a copy of the last one; the past ones are frozen, and one head reads them all. Then the
head starts anew on as many images of each class. As in the release the extractors are not pruned ("w/o P" in its tables). Left out:
ten epochs of warm-up after which its heads start anew. Shapes: B batch, C classes seen, O old classes, n new ones.
"""

from typing import Any

from accelerate import Accelerator
from torch import Tensor
from torch.nn.functional import cross_entropy

from data.stream import Batch, Task
from methods import config
from methods.base import Stored
from methods.config import Training, stage
from methods.learning.training import current, fit
from methods.networks.expanding import Expanding
from methods.replay import Replay


def der_loss(logits: Tensor, aux: Tensor, labels: Tensor, old: int, weight: float) -> Tensor:
    """Equation 7: cross-entropy, and that of the auxiliary head, to which all old classes are one, its first.

    logits: [B, C]; aux: [B, n + 1]; old: O.
    """
    return cross_entropy(logits, labels) + weight * cross_entropy(aux, (labels - old + 1).clamp(min=0))


class DERYan(Replay):
    Config = config.DERYan
    Net = Expanding
    scenarios = ("class",)  # an extractor is for new classes

    def __init__(self, config: config.DERYan, accelerator: Accelerator):
        super().__init__(config, accelerator)
        self.old = 0  # classes, while a task is learnt

    def learn(self, task: Task) -> None:
        self.old = self.net.classes
        self.net.grow(task.classes.stop)
        fit(self.accelerator, self.net, self.memory.beside(task.train), self.loss, self.config, self.augment(task))
        self.memory.update(task.train, task.classes, self.embedded, current().generator(-1))
        if self.old and not self.memory.nothing:
            self.net.settle(True)
            fit(self.accelerator, self.net, self.memory.rows(task.train), self.balanced_loss, self.balanced(), self.augment(task))
            self.net.settle(False)
        self.net.aux = None

    def loss(self, net: Expanding, batch: Batch) -> Tensor:
        if not self.old:
            return cross_entropy(net(batch.inputs).float(), batch.labels)
        logits, aux = net(batch.inputs, with_aux=True)
        return der_loss(logits.float(), aux.float(), batch.labels, self.old, self.config.aux)

    def balanced_loss(self, net: Expanding, batch: Batch) -> Tensor:
        """Section 3.4: logits are divided by a temperature."""
        return cross_entropy(net(batch.inputs).float() / self.config.temperature, batch.labels)

    def balanced(self) -> Training:
        """-> how the head is trained on the memory, which holds as many images of each class: a tenth of the rate after half the epochs"""
        options = self.config
        steps = {"schedule": "multistep", "milestones": [options.balanced_epochs // 2], "factor": 0.1}
        return stage(options, epochs=options.balanced_epochs, lr=options.balanced_lr, **steps)

    def stored(self) -> list[Stored]:
        """The newest extractor, too: the next task keeps it as it is."""
        return [*super().stored(), Stored("extractors", len(self.net.past) + 1, self.net.extractor_bytes())]

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "sizes": self.net.sizes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.net = Expanding(self.config).to(self.accelerator.device).eval()  # as `fit` leaves it
        for size in state["sizes"]:
            self.net.grow(size)
        self.net.aux = None
        self.net.load_state_dict(state["net"])
        self.memory.load_state_dict(state["memory"])
