"""SLCA: Slow Learner with Classifier Alignment (Zhang et al., ICCV 2023, arXiv 2303.05118, and its release).

All of a pretrained network trains, its backbone a hundred times more slowly than the heads, of which each task has its own. After each
task but the first a copy of all heads is aligned: trained on features drawn from a Gaussian of each class. It answers until the next
task, which goes on from the heads that were not aligned. The Gaussians of past classes stay as they were while the backbone moves on.
Shapes: B batch, C classes seen, D features, T tasks.
"""

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.functional import cross_entropy

from data.stream import Batch, Rows, Task
from methods import config
from methods.base import Stored
from methods.config import Training
from methods.finetune import Finetune
from methods.learning.training import current, embed, fit
from methods.memory.gaussians import Gaussians
from methods.networks.heads import Heads, SlowLearner


def shares(sizes: list[int]) -> Tensor:
    """-> [C]: a class of the t-th of T tasks is drawn around its mean times 0.9 + 0.1 t / T. sizes: classes of each task"""
    share = 0.9 + 0.1 * torch.arange(1, len(sizes) + 1) / len(sizes)
    return share.repeat_interleave(torch.tensor(sizes))


def normalised(logits: Tensor, sizes: list[int], temperature: float) -> Tensor:
    """Logit normalisation: logits [B, C] over the mean of their lengths in each task, and over a temperature."""
    lengths = [part.norm(dim=1, keepdim=True) + 1e-7 for part in logits.split(sizes, 1)]
    return logits / torch.cat(lengths, 1).mean(1, keepdim=True) / temperature


class SLCA(Finetune):
    Config = config.SLCA
    Net = SlowLearner
    scenarios = ("class",)  # a head, and a Gaussian, is for new classes
    apart = True  # the loss compares the classes of a task among themselves alone

    def __init__(self, config: config.SLCA, accelerator: Accelerator):
        super().__init__(config, accelerator)
        self.first = 0  # class of the task that is learnt
        self.gaussians = Gaussians(accelerator.device)

    @classmethod
    def variant(cls, config: config.SLCA) -> str:
        return config.name if config.align_epochs else f"{config.name}-no_alignment"

    def learn(self, task: Task) -> None:
        self.first = task.classes.start
        super().learn(task)
        if self.config.align_epochs:
            self.gaussians.add(self.features(task.train), task.train.labels, task.classes)
            if task.index:
                self.align()

    def loss(self, net: SlowLearner, batch: Batch) -> Tensor:
        """Among the classes of the task alone."""
        return cross_entropy(net(batch.inputs)[:, self.first :].float(), batch.labels - self.first)

    def features(self, rows: Rows) -> Tensor:
        """-> of the images as they are, without augmentation [N, D]"""
        return embed(self.accelerator, lambda batch: (self.net.features(batch.inputs).float(),), rows, self.config.batch_size)[0]

    def align(self) -> None:
        """The rows are the classes' means, each as often as features are drawn around it."""
        labels = torch.arange(len(self.gaussians.means)).repeat_interleave(self.config.drawn)
        means = self.gaussians.means.cpu() * shares(self.net.head.sizes)[:, None]
        fit(self.accelerator, self.net.copied(), Rows(means, labels, labels), self.alignment_loss, self.alignment())

    def alignment_loss(self, heads: Heads, batch: Batch) -> Tensor:
        noise = current().micro.normal(batch.inputs.shape[1]).to(batch.inputs)
        logits = heads(batch.inputs + self.gaussians.spread(noise, batch.labels)).float()
        if self.config.temperature is not None:
            logits = normalised(logits, self.net.head.sizes, self.config.temperature)
        return cross_entropy(logits, batch.labels)

    def alignment(self) -> Training:
        """-> how the heads are aligned; the cosine goes by steps, where the release's goes by epochs"""
        kept = ("optimizer", "momentum", "nesterov", "weight_decay", "decay", "clip", "compile")
        same = {name: getattr(self.config, name) for name in kept}
        return Training(epochs=self.config.align_epochs, lr=self.config.align_lr, batch_size=self.config.drawn, schedule="cosine", **same)

    def stored(self) -> list[Stored]:
        """The heads that were not aligned, too, with which the next alignment begins."""
        kept = [] if self.net.aligned is None else [Stored("heads", len(self.net.head), self.net.head.bytes())]
        return [*self.gaussians.stored(), *kept]

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "gaussians": self.gaussians.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.net.restore(state["net"])
        self.gaussians.load_state_dict(state["gaussians"])
