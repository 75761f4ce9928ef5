"""iCaRL as its authors' release trains it (github.com/srebuffi/iCaRL, Theano), one choice at a time. A plug-in, run by hand:

python bench/run.py plugins=[tests.agreement.release] experiment=cifar100_icarl method=icarl_release method.all_outputs=true

Three more of its choices are options of `icarl` itself: method.mirror=true, method.rounding=ceil and method.weight_decay=2e-5 (the release
adds 1e-5 times the sum of squares, whose gradient is twice that). Left out: its momentum goes on from task to task, and it drops the last
batch of an epoch, which is smaller. Shapes: B batch, C classes seen, N rows, D features.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn.functional import normalize

from data.images.augment import Augment
from data.stream import Batch, Task
from methods.config import METHODS
from methods.icarl import ICaRL
from methods.lwf import distillation_loss, old_logits
from methods.memory import exemplars
from methods.networks.classifier import Classifier
from methods.options.classifiers import ICaRL as Options
from methods.replay import Replay

METHODS["icarl_release"] = "tests.agreement.release:Release"
STEPS = 1000  # of the release's herding, after which it takes no more


@dataclass
class Config(Options):
    name: str = "icarl_release"
    all_outputs: bool = False  # outputs of all classes from the first task on; those of classes to come are trained towards 0
    mean_image: bool = False  # subtract the first task's mean image, and pad with it, in place of each channel's mean and deviation
    welling: bool = False  # herd by Welling's rule, which may pick a row again and then does not count it


@dataclass(frozen=True)
class Centred(Augment):
    mean: Tensor | None = None  # [3, H, W]

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        return super().__call__(images - self.mean, draws)


class Net(Classifier):
    """least: outputs from the start; centred: images lose the `mean` image in place of the channels' statistics"""

    least, centred = 0, False

    def __init__(self, *given):
        super().__init__(*given)
        self.register_buffer("mean", torch.zeros(3, 32, 32))

    def grow(self, classes: int) -> None:
        if self.classes < max(classes, self.least):
            super().grow(max(classes, self.least))

    def pixels(self, images: Tensor) -> Tensor:
        if not self.centred:
            return super().pixels(images)
        return (images if images.is_floating_point() else images - self.mean) / 255  # floats come from `Centred`


def herd_as_released(features: Tensor, labels: Tensor, classes: Sequence[int], count: int) -> list[Tensor]:
    """features [N, D], labels [N] -> for each class positions int64 [<= count], best first: w <- w + mean - picked, from w = mean"""
    found = []
    for label in classes:
        members = torch.nonzero(labels == label)[:, 0]
        rows = normalize(features[members].double(), dim=1)
        mean, picked = rows.mean(0), []
        weight = mean
        for _ in range(STEPS):
            best = int((rows @ weight).argmax())
            weight = weight + mean - rows[best]
            picked += [best] * (best not in picked)
            if len(picked) == min(count, len(rows)):
                break
        found.append(members[picked])
    return found


class Release(ICaRL):
    Config = Config
    Net = Net

    def check(self, classes: int) -> None:
        super().check(classes)
        self.net.centred, self.net.least = self.config.mean_image, classes if self.config.all_outputs else 0

    def learn(self, task: Task) -> None:
        self.old = task.classes.start
        self.teacher = copy.deepcopy(self.net).eval().requires_grad_(False) if self.old else None
        if self.config.mean_image and not self.old:
            self.net.mean.copy_(task.train[list(range(len(task.train)))].inputs.float().mean(0))
        with patch.object(exemplars, "herd_classes", herd_as_released if self.config.welling else exemplars.herd_classes):
            Replay.learn(self, task)
        self.teacher = None
        self.means = self.means_of(self.memory.rows(task.train), task.classes.stop)

    def augment(self, task: Task) -> Augment:
        plain = super().augment(task)
        return Centred(plain.padding, plain.flip, self.net.mean) if self.config.mean_image else plain

    def loss(self, net: Classifier, batch: Batch) -> Tensor:
        old = old_logits(self.teacher, batch)
        old = old if old is None else old[:, : self.old]
        return distillation_loss(net(batch.inputs), batch.labels, old, outputs=self.config.outputs)

    def predict(self, inputs: Tensor):
        found = super().predict(inputs)
        return found._replace(head_scores=found.head_scores[:, : len(self.means)])
