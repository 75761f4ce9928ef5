"""RanPAC, phase 2: ridge regression on random features of a frozen encoder (McDonnell et al., NeurIPS 2023, arXiv 2307.02251).

Closed form: what is kept are sums over rows, so that for one lambda the result is that of joint training on all rows seen. Phase 1, an
adapter trained on the first task, is left out: published numbers to compare with are those of "No Phase 1".
Shapes: B batch, C classes, N rows, D features, M random features.
"""

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.functional import one_hot

from data.errors import InputError
from data.stream import Task
from methods import config
from methods.base import Method, Prediction, Stored
from methods.learning.moments import every_core, moments
from methods.learning.training import current, embed
from methods.ncm import grown
from methods.networks.backbones import frozen_encoder

RIDGES = tuple(10.0**power for power in range(-8, 9))


class RanPAC(Method):
    Config = config.RanPAC
    trained = False

    def __init__(self, config: config.RanPAC, accelerator: Accelerator):
        super().__init__(config, accelerator)
        if config.projection < 0 or (config.ridge is not None and config.ridge <= 0):
            raise InputError("method.projection must be 0 or more, and method.ridge null or above 0: correct the one that is not")
        self.encoder = frozen_encoder(config.encoder)
        self.draw(int(torch.randint(2**62, ())))
        empty = torch.empty(0, 0, dtype=torch.float64, device=accelerator.device)
        self.second, self.sums, self.weight = empty, empty, empty  # G [M, M], Q^T [C, M], W_o [M, C]

    def draw(self, seed: int) -> None:
        """The random projection R, standard normal, is a number that it follows from."""
        self.seed, wide = seed, (self.encoder.features, self.config.projection)
        drawn = torch.randn(wide, generator=torch.Generator().manual_seed(seed))
        self.projection = drawn.to(self.accelerator.device, torch.float64) if self.config.projection else None

    @classmethod
    def variant(cls, config: config.RanPAC) -> str:
        return config.name if config.projection else f"{config.name}-no_rp"

    def expand(self, features: Tensor) -> Tensor:
        """h = relu(f R), equation 3: features as they are, of no unit length and without a bias. float64 [N, D] -> [N, M]"""
        return (features @ self.projection).relu_() if self.projection is not None else features

    @every_core()
    def learn(self, task: Task) -> None:
        (features,) = embed(self.accelerator, lambda batch: (batch.inputs[:, 0].float(),), task.train, self.config.batch_size)
        classes, labels = max(task.classes.stop, len(self.sums)), task.train.labels
        second, sums = moments(features, labels, classes, self.expand, self.accelerator.device)
        self.second = second.add_(self.second) if len(self.second) else second
        self.sums = grown(self.sums, *sums.shape) + sums
        self.weight = ridge_weights(self.second, self.sums.T, self.config.ridge or self.choose(features, labels - task.classes.start))

    def choose(self, features: Tensor, labels: Tensor) -> float:
        """-> the lambda of least squared error on a fifth of the task's rows, in the regression on the others

        The rows are shuffled: in the order of a data set the last fifth would be a class that the others do not show.
        """
        if len(labels) < 2:
            raise InputError("one image is too few to choose method.ridge on: set it")
        order = torch.randperm(len(labels), generator=current().generator(-3))
        fit, held = order[: max(1, int(0.8 * len(order)))], order[max(1, int(0.8 * len(order))) :]
        targets = one_hot(labels).double().to(self.accelerator.device)
        smallest = torch.finfo(torch.float64).eps * self.second.diagonal().sum().item()  # beside G, less than that is nothing
        ridges = [ridge for ridge in RIDGES if ridge >= smallest] or [smallest]
        hidden = [self.expand(features[rows].to(self.accelerator.device).double()) for rows in (fit, held)]
        errors = ridge_errors(hidden[0], targets[fit], hidden[1], targets[held], ridges)
        return ridges[int(errors.argmin())]

    @every_core()
    def predict(self, inputs: Tensor) -> Prediction:
        return Prediction(self.expand(inputs[:, 0].double()) @ self.weight)

    def stored(self) -> list[Stored]:
        """The projection is kept as the number that it follows from."""
        kept = {"class sums": self.sums, "second moments": self.second}
        return [Stored(kind, len(values), values.numel() * values.element_size()) for kind, values in kept.items()]

    def state_dict(self) -> dict[str, Any]:
        return {"seed": self.seed, **{name: getattr(self, name) for name in ("second", "sums", "weight")}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.draw(state["seed"])
        for name in ("second", "sums", "weight"):
            setattr(self, name, state[name].to(self.accelerator.device))


def ridge_weights(second: Tensor, targets: Tensor, ridge: float) -> Tensor:
    """Equation 6: (G + lambda I)^-1 Q. [M, M], [M, C] -> [M, C]. Errors: InputError for a lambda that vanishes beside G."""
    shifted = second.clone()
    shifted.diagonal().add_(ridge)
    factor, failed = torch.linalg.cholesky_ex(shifted)
    if failed:
        raise InputError(f"method.ridge={ridge:g} is lost by rounding beside features of this size: set a larger one, or null")
    return torch.cholesky_solve(targets, factor)


def ridge_errors(fit: Tensor, targets: Tensor, held: Tensor, wanted: Tensor, ridges: list[float]) -> Tensor:
    """-> mean squared error [len(ridges)] of regressions from `fit` [n, M] to `targets` [n, C] on rows `held` [m, M], `wanted` [m, C]

    All from one decomposition, of whichever of H^T H and H H^T is smaller: (H^T H + l I)^-1 H^T = H^T (H H^T + l I)^-1. Directions whose
    eigenvalue is rounding are left out, which is the limit of a small lambda.
    """
    dual = len(fit) < fit.shape[1]
    values, vectors = torch.linalg.eigh(fit @ fit.T if dual else fit.T @ fit)
    seen = values > torch.finfo(values.dtype).eps * len(values) * values[-1]
    values, vectors = values[seen], vectors[:, seen]
    left = (held @ fit.T if dual else held) @ vectors
    right = vectors.T @ (targets if dual else fit.T @ targets)
    return torch.stack([((left / (values + ridge)) @ right - wanted).square().mean() for ridge in ridges])
