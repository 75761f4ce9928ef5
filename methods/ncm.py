"""NCM: the nearest class mean on frozen features (iCaRL, section 4.2; SimpleCIL). Closed form, no training.

Shapes: B batch, C classes, N rows, D features.
"""

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.functional import normalize

from data.stream import Task
from methods import config
from methods.base import Method, Prediction, Stored
from methods.icarl import nearest_mean
from methods.learning.training import embed
from methods.networks.backbones import frozen_encoder


class NCM(Method):
    Config = config.NCM
    trained = False
    scoring = "nearest mean"

    def __init__(self, config: config.NCM, accelerator: Accelerator):
        super().__init__(config, accelerator)
        self.encoder = frozen_encoder(config.encoder)
        self.sums = torch.empty(0, 0, dtype=torch.float64)  # [C, D] sums of normalised features
        self.counts = torch.empty(0, dtype=torch.float64)  # [C]

    def learn(self, task: Task) -> None:
        (features,) = embed(self.accelerator, lambda batch: (normalize(batch.inputs[:, 0], dim=1),), task.train, self.config.batch_size)
        classes = max(task.classes.stop, len(self.counts))
        sums, counts = torch.zeros(classes, features.shape[1]).double(), torch.zeros(classes).double()
        if len(self.counts):
            sums[: len(self.sums)], counts[: len(self.counts)] = self.sums, self.counts
        self.sums = sums.index_add_(0, task.train.labels, features.double())
        self.counts = counts.index_add_(0, task.train.labels, torch.ones(len(features)).double())

    def predict(self, inputs: Tensor) -> Prediction:
        means = normalize(self.sums / self.counts[:, None], dim=1).to(inputs.device)
        return Prediction(nearest_mean(inputs[:, 0], means))

    def stored(self) -> list[Stored]:
        return [Stored("class means", len(self.sums), self.sums.numel() * self.sums.element_size())]

    def state_dict(self) -> dict[str, Any]:
        return {"sums": self.sums, "counts": self.counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sums, self.counts = state["sums"], state["counts"]
