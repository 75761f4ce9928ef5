"""SLDA: linear discriminant analysis on frozen features, with one covariance within classes (Hayes and Kanan 2020, arXiv 1909.01520).

Closed form: means and covariance follow from sums over rows, so that the result is that of all rows seen at once, in any order. The
paper's release updates the same covariance image by image, and starts it on the images of a base set; here there is none.
Shapes: B batch, C classes, N rows, D features.
"""

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from data.errors import InputError
from data.stream import Task
from methods import config
from methods.base import Method, Prediction, Stored
from methods.learning.moments import every_core, moments
from methods.learning.training import embed
from methods.ncm import grown
from methods.networks.backbones import encoder_of


class SLDA(Method):
    Config = config.SLDA
    trained = False

    def __init__(self, config: config.SLDA, accelerator: Accelerator):
        super().__init__(config, accelerator)
        if not 0 < config.shrinkage <= 1:
            raise InputError(
                f"method.shrinkage={config.shrinkage:g} must be above 0 and at most 1: a covariance of few images has no inverse"
            )
        self.encoder = encoder_of(config)
        empty = torch.empty(0, 0, dtype=torch.float64, device=accelerator.device)
        self.second, self.sums, self.counts = empty, empty, empty[0:0].flatten()  # [D, D], [C, D], [C]
        self.weight, self.bias = empty, self.counts  # [C, D], [C]

    @every_core()
    def learn(self, task: Task) -> None:
        (features,) = embed(self.accelerator, lambda batch: (batch.inputs[:, 0].float(),), task.train, self.config.batch_size)
        classes, labels = max(task.classes.stop, len(self.counts)), task.train.labels
        second, sums = moments(features, labels, classes, self.accelerator.device)
        self.second = grown(self.second, *second.shape) + second
        self.sums = grown(self.sums, *sums.shape) + sums
        self.counts = grown(self.counts, classes) + torch.bincount(labels, minlength=classes).to(self.counts)
        self.weight, self.bias = discriminant(self.second, self.sums, self.counts, self.config.shrinkage)

    @every_core()
    def predict(self, inputs: Tensor) -> Prediction:
        return Prediction(inputs[:, 0].double() @ self.weight.T + self.bias)

    def stored(self) -> list[Stored]:
        kept = {"class means": self.sums, "second moments": self.second}
        return [Stored(kind, len(values), values.numel() * values.element_size()) for kind, values in kept.items()]

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("second", "sums", "counts", "weight", "bias")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value.to(self.accelerator.device))


def discriminant(second: Tensor, sums: Tensor, counts: Tensor, shrinkage: float) -> tuple[Tensor, Tensor]:
    """Gaussian classes of one covariance and equal priors: the score of class c is mu_c L f - mu_c L mu_c / 2, L = ((1-e) S + e I)^-1.

    second: sum of f f^T [D, D]; sums [C, D] and counts [C] by class; shrinkage: e. -> weights [C, D], biases [C]

    Errors: InputError for a shrinkage that vanishes beside S, which would leave of it what rounding makes of a matrix without inverse.
    """
    means = sums / counts[:, None]
    within = (second - sums.T @ means) / counts.sum()
    if shrinkage < torch.finfo(within.dtype).eps * within.diagonal().sum():
        raise InputError(f"method.shrinkage={shrinkage:g} is lost by rounding beside features of this size: set a larger one")
    covariance = (1 - shrinkage) * within + shrinkage * torch.eye(len(second), dtype=second.dtype, device=second.device)
    weight = torch.linalg.solve(covariance, means.T).T
    return weight, -(weight * means).sum(1) / 2
