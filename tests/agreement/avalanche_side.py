"""The same training in Avalanche 0.6 (Lomonaco et al. 2021): its own strategies, losses and memories, on our rows and our network.

What the two harnesses must share for a comparison of methods is shared: rows, network, initial rule, optimizer, schedule, augmentation.
`tests.agreement.switches` names the single choices that can be turned, so that a difference can be traced to one of them.
Shapes: B batch, C classes, D features, N rows, m exemplars.
"""

import random
import types

import numpy as np
import torch
from avalanche.benchmarks import nc_benchmark
from avalanche.training.losses import ICaRLLossPlugin
from avalanche.training.plugins import EvaluationPlugin, LRSchedulerPlugin, ReplayPlugin, SupervisedPlugin
from avalanche.training.storage_policy import ClassBalancedBuffer
from avalanche.training.supervised import ICaRL, JointTraining, Naive
from torch import Tensor, nn
from torchvision.transforms import Compose, RandomCrop, RandomHorizontalFlip

from data.stream import TaskStream
from methods.config import Training
from methods.memory.exemplars import herding
from methods.networks.backbones import prepare
from methods.networks.resnet import CifarResNet


class Features(nn.Module):
    """uint8-valued float images [B, 3, H, W] -> [B, D]: our backbone with its own normalisation, so that both see the same pixels."""

    def __init__(self, depth: int):
        super().__init__()
        self.backbone = CifarResNet(depth)

    def forward(self, images: Tensor) -> Tensor:
        return self.backbone.pool(self.backbone.maps(prepare(None, images, None)))


class StartAnew(SupervisedPlugin):
    """No momentum from the task before."""

    def before_training_exp(self, strategy, **kwargs):
        strategy.optimizer.state.clear()


class TeacherAtRest(ICaRLLossPlugin):
    """The old network in eval mode, but for its classifier, which is the trained one."""

    def before_forward(self, strategy, **kwargs):
        if self.old_model is not None:
            self.old_model.eval()
            with torch.no_grad():
                self.old_logits = self.old_model.train_classifier(self.old_model.feature_extractor(strategy.mb_x))


class PooledReplay(ReplayPlugin):
    """New rows and exemplars in one shuffled epoch."""

    def after_train_dataset_adaptation(self, strategy, **kwargs):
        if len(self.storage_policy.buffer):
            strategy.adapted_dataset = strategy.adapted_dataset.concat(self.storage_policy.buffer)

    def before_training_exp(self, strategy, **kwargs):
        """No loader of its own."""


class SeenCrossEntropy(SupervisedPlugin):
    """Cross-entropy over the outputs of the classes seen."""

    def __init__(self, sizes: list[int]):
        super().__init__()
        self.sizes, self.seen = list(sizes), 0

    def before_training_exp(self, strategy, **kwargs):
        self.seen += self.sizes.pop(0)

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits[:, : self.seen], targets)


class SeenOutputs:
    """Wraps a loss: only the outputs of classes seen take part, and the sum over them is still divided by all."""

    def __init__(self, loss, increment: int):
        self.loss, self.increment = loss, increment

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        seen = len(self.loss.old_classes) + self.increment
        if self.loss.old_logits is not None:
            self.loss.old_logits = self.loss.old_logits[:, :seen]
        return self.loss(logits[:, :seen], targets) * (seen / logits.shape[1])


def benchmark(stream: TaskStream):
    """-> Avalanche's stream of the same rows: images float [3, H, W] in 0..255, labels by arrival"""

    def tensors(rows):
        batch = rows[torch.arange(len(rows))]
        data = torch.utils.data.TensorDataset(batch.inputs.float(), batch.labels)
        data.targets = batch.labels.tolist()
        return data

    augment = Compose([RandomCrop(stream[0].train[0].inputs.shape[-1], padding=4), *([RandomHorizontalFlip()] if stream.mirrors else [])])
    classes = len(stream.class_names)
    tasks = nc_benchmark(
        tensors(stream.train_rows),
        tensors(stream.scored_rows),
        n_experiences=len(stream),
        task_labels=False,
        fixed_class_order=list(range(classes)),
        per_exp_classes=dict(enumerate(stream.sizes)),
        train_transform=augment,
    )
    return tasks, augment


def strategy(method: str, stream: TaskStream, options: Training, depth: int, memory: int, augment, switches: set[str]):
    """-> one of Avalanche's strategies"""
    classes = len(stream.class_names)
    features, classifier = Features(depth), nn.Linear(64, classes)
    model = nn.Sequential(features, classifier)
    optimizer = torch.optim.SGD(model.parameters(), lr=options.lr, momentum=options.momentum, weight_decay=options.weight_decay)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, list(options.milestones), gamma=options.factor)
    shared = {
        "optimizer": optimizer,
        "train_mb_size": options.batch_size,
        "train_epochs": options.epochs,
        "eval_mb_size": 256,
        "evaluator": EvaluationPlugin(),
        "plugins": [LRSchedulerPlugin(schedule), *([StartAnew()] if "momentum" in switches else [])],
    }
    entropy = SeenCrossEntropy(stream.sizes) if "outputs" in switches else nn.CrossEntropyLoss()
    if method == "finetune":
        return Naive(model=model, criterion=entropy, **shared)
    if method == "joint":
        return JointTraining(model=model, criterion=nn.CrossEntropyLoss(), **shared)
    if method == "replay":  # its batches hold as many rows of the memory as new ones
        Plugin = PooledReplay if "pool" in switches else ReplayPlugin
        shared["plugins"].append(Plugin(memory, storage_policy=ClassBalancedBuffer(memory, adaptive_size=True)))
        return Naive(model=model, criterion=entropy, **shared)
    if method == "lwf":  # LwF-MC: iCaRL's loss without its exemplars, over the outputs that there are
        made = Naive(model=model, criterion=ICaRLLossPlugin(), **shared)
        made._criterion = SeenOutputs(made._criterion, stream.sizes[0])
        return made
    made = ICaRL(
        feature_extractor=features, classifier=classifier, memory_size=memory, buffer_transform=augment, fixed_memory=True, **shared
    )
    switch(made, stream, switches)
    return made


def switch(made, stream: TaskStream, switches: set[str]) -> None:
    """Turn the switches of an iCaRL."""
    if "teacher" in switches:
        place = made.plugins.index(made._criterion)
        made._criterion = made.plugins[place] = TeacherAtRest()
    if "outputs" in switches:
        made._criterion = SeenOutputs(made._criterion, stream.sizes[0])
    if "herding" in switches:
        plugin = next(one for one in made.plugins if hasattr(one, "construct_exemplar_set"))
        plugin.construct_exemplar_set = types.MethodType(_by_algorithm_4, plugin)


@torch.no_grad()
def _by_algorithm_4(plugin, made) -> None:
    """What Avalanche's `construct_exemplar_set` leaves behind, by our herding."""
    quota = -(-plugin.memory_size // len(plugin.observed_classes))
    rows = made.experience.dataset.eval()
    images, labels = torch.stack([row[0] for row in rows]), torch.tensor([int(row[1]) for row in rows])
    for label in sorted(labels.unique().tolist()):
        mine = images[labels == label]
        order = herding(made.model.feature_extractor(mine), quota)
        plugin.x_memory.append(mine[order])
        plugin.y_memory.append([label] * len(order))
        plugin.order.append(torch.arange(1, len(order) + 1))


def accuracies(method: str, stream: TaskStream, options: Training, depth: int, memory: int, seed: int, switches: set[str]) -> list[float]:
    """-> the accuracy after each task over the rows of all classes seen

    Argmax over what Avalanche's model puts out, as it scores; of what its loss was cut to, where it was. iCaRL's is by class means.
    """
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    tasks, augment = benchmark(stream)
    made = strategy(method, stream, options, depth, memory, augment, switches)
    found = []
    for number in range(len(stream)):
        if method == "joint":  # trains once on all; the last accuracy alone compares
            if number + 1 < len(stream):
                continue
            made.train(tasks.train_stream)
        else:
            made.train(tasks.train_stream[number])
        rows = stream.seen(number)
        made.model.eval()
        with torch.no_grad():
            parts = [rows[at] for at in torch.arange(len(rows)).split(256)]
            cut = method == "lwf" or "outputs" in switches and method != "icarl"
            some = sum(stream.sizes[: number + 1]) if cut else None
            right = sum((made.model(part.inputs.float())[:, :some].argmax(1) == part.labels).sum().item() for part in parts)
        found.append(right / len(rows))
    return found
