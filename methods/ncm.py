"""NCM: the nearest class mean on frozen features (iCaRL, section 4.2), and SimpleCIL (Zhou et al. 2023, arXiv 2303.07338).

Closed form, no training. Both take the class of the largest cosine; NCM averages features of unit length, SimpleCIL features as they
are, so that those of a large norm weigh more. Shapes: B batch, C classes, N rows, D features.
"""

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.functional import normalize

from data.stream import Batch, Task
from methods import config
from methods.base import Method, Prediction, Stored
from methods.icarl import nearest_mean
from methods.learning.training import embed
from methods.networks.backbones import frozen_encoder


class NCM(Method):
    Config = config.NCM
    scoring = "nearest mean"
    trained = False

    def __init__(self, config: config.NCM, accelerator: Accelerator):
        super().__init__(config, accelerator)
        self.encoder = frozen_encoder(config.encoder)
        self.sums = torch.empty(0, 0, dtype=torch.float64)  # [C, D] sums of features
        self.counts = torch.empty(0, dtype=torch.float64)  # [C]

    @classmethod
    def variant(cls, config: config.NCM) -> str:
        return "ncm" if config.normalise else "simplecil"

    def learn(self, task: Task) -> None:
        def encode(batch: Batch) -> tuple[Tensor]:
            return (normalize(batch.inputs[:, 0], dim=1) if self.config.normalise else batch.inputs[:, 0].float(),)

        (features,) = embed(self.accelerator, encode, task.train, self.config.batch_size)
        classes, labels = max(task.classes.stop, len(self.counts)), task.train.labels
        self.sums = grown(self.sums, classes, features.shape[1]).index_add_(0, labels, features.double())
        self.counts = grown(self.counts, classes).index_add_(0, labels, torch.ones(len(features)).double())

    def predict(self, inputs: Tensor) -> Prediction:
        means = normalize(self.sums / self.counts[:, None], dim=1).to(inputs.device)
        return Prediction(nearest_mean(inputs[:, 0], means))

    def stored(self) -> list[Stored]:
        return [Stored("class means", len(self.sums), self.sums.numel() * self.sums.element_size())]

    def state_dict(self) -> dict[str, Any]:
        return {"sums": self.sums, "counts": self.counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sums, self.counts = state["sums"], state["counts"]


class SimpleCIL(NCM):
    Config = config.SimpleCIL


def grown(sums: Tensor, *shape: int) -> Tensor:
    """-> a copy of `sums` of a larger shape, filled up with zeros"""
    wider = torch.zeros(shape, dtype=sums.dtype, device=sums.device)
    if sums.numel():
        wider[tuple(slice(length) for length in sums.shape)] = sums
    return wider
