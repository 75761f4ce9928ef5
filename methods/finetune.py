"""Finetune: cross-entropy on the new task alone, nothing kept. The floor of every table."""

from typing import Any, ClassVar

from accelerate import Accelerator
from torch import Tensor
from torch.nn.functional import cross_entropy

from data.errors import InputError
from data.images.augment import Augment, ResizedCrop
from data.stream import Batch, Task
from methods import config
from methods.base import Method, Prediction
from methods.learning.sharding import on_device
from methods.learning.training import fit
from methods.networks.backbones import frozen_backbone
from methods.networks.classifier import Classifier


class Finetune(Method):
    Config = config.Finetune
    Net: ClassVar[type] = Classifier

    def __init__(self, config: config.Backboned, accelerator: Accelerator):
        super().__init__(config, accelerator)
        if self.Net is Classifier and config.frozen and not config.augment:
            self.encoder = frozen_backbone(config)
        self.net = self.new_net()

    def new_net(self) -> Classifier:
        """-> the network before the first task; a head alone where features are given"""
        net = self.Net(self.config) if self.encoder is None else Classifier(self.config, self.encoder)
        return on_device(self.accelerator, net)

    def learn(self, task: Task) -> None:
        self.net.grow(task.classes.stop)
        fit(self.accelerator, self.net, task.train, self.loss, self.config, self.augment(task))

    def augment(self, task: Task) -> Augment | ResizedCrop | None:
        """-> what is done to the task's training images"""
        if not self.config.augment:
            return None
        flip, size = self.config.flip and task.mirrors, self.config.image_size
        if self.config.crop is None:
            return Augment(flip=flip)
        if size is None or not 0 < self.config.crop <= 1:
            raise InputError("method.crop is the smallest share of an image, above 0 and at most 1, and needs method.image_size: set both")
        return ResizedCrop(size, self.config.crop, flip)

    def loss(self, net: Classifier, batch: Batch) -> Tensor:
        return cross_entropy(net(batch.inputs), batch.labels)

    def predict(self, inputs: Tensor) -> Prediction:
        return Prediction(self.net(inputs))

    def state_dict(self) -> dict[str, Any]:
        return {"net": self.net.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.net.grow(len(state["net"]["head.weight"]))
        self.net.load_state_dict(state["net"])

    def weights(self) -> dict[str, str]:
        return getattr(self.net.backbone, "weights", {})

    def models(self) -> dict[str, dict[str, Any]]:
        return {"backbone": {**self.net.fed.said(), "weights": self.weights()}} if self.net.fed is not None else {}

    def networks(self) -> list[Classifier]:
        return [self.net]
