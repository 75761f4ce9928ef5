"""RanPAC, phase 2: ridge regression on random features of a frozen encoder (McDonnell et al., NeurIPS 2023, arXiv 2307.02251).

Closed form: what is kept are sums over rows, so that for one lambda the result is that of joint training on all rows seen. Phase 1, an
adapter trained on the first task, is left out: published numbers to compare with are those of "No Phase 1".
Shapes: B batch, C classes, N rows, D features, M random features.
"""

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.linalg import cholesky_ex, solve_triangular
from torch.nn.functional import one_hot

from data.errors import InputError
from data.stream import Task
from methods import config
from methods.base import Method, Prediction, Stored
from methods.learning.moments import add_gram, every_core, gram
from methods.learning.shifted import shifted_solutions
from methods.learning.training import current, embed
from methods.ncm import grown
from methods.networks.backbones import encoder_of

RIDGES = tuple(10.0**power for power in range(-8, 9))


class RanPAC(Method):
    Config = config.RanPAC
    trained = False

    def __init__(self, config: config.RanPAC, accelerator: Accelerator):
        super().__init__(config, accelerator)
        if config.projection < 0 or (config.ridge is not None and config.ridge <= 0):
            raise InputError("method.projection must be 0 or more, and method.ridge null or above 0: correct the one that is not")
        self.encoder = encoder_of(config)
        self.draw(int(torch.randint(2**62, ())))
        empty = torch.empty(0, 0, dtype=torch.float64, device=accelerator.device)
        self.second, self.sums, self.weight = empty, empty, empty  # G's upper triangle [M, M], Q^T [C, M], W_o [M, C]
        self.ridge = config.ridge  # lambda, as last chosen

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
        """The rows are shuffled: in the order of a data set the last fifth would be a class that the others do not show."""
        (features,) = embed(self.accelerator, lambda batch: (batch.inputs[:, 0].float(),), task.train, self.config.batch_size)
        order = torch.randperm(len(features), generator=current().generator(-3))
        hidden = self.expand(features[order].to(self.accelerator.device).double())
        targets = one_hot(task.train.labels[order], max(task.classes.stop, len(self.sums))).to(hidden)
        if not len(self.second):
            self.second = self.second.new_zeros(hidden.shape[1], hidden.shape[1])
        add_gram(self.second, hidden)
        self.sums = grown(self.sums, targets.shape[1], hidden.shape[1]) + targets.T @ hidden
        self.ridge = self.config.ridge or self.choose(hidden, targets[:, task.classes.start :])
        self.weight = ridge_weights(self.second, self.sums.T, self.ridge)

    def choose(self, hidden: Tensor, targets: Tensor) -> float:
        """-> the lambda of least squared error on the last fifth of the task's rows, in the regression on those before. [N, M], [N, c]

        As in the release, on this task's rows alone, and among powers of ten; those that vanish beside G in float64 are left out. Of
        errors that agree in six digits the largest lambda's counts: the smallest's weights would be what rounding makes of them.
        """
        fit = int(0.8 * len(hidden))
        if fit == 0:
            raise InputError("a task of one image is too small to choose method.ridge on: set it")
        smallest = torch.finfo(torch.float64).eps * self.second.diagonal().sum().item()
        ridges = [ridge for ridge in RIDGES if ridge >= smallest] or [smallest]
        errors = ridge_errors(hidden[:fit], targets[:fit], hidden[fit:], targets[fit:], ridges)
        return ridges[int((errors <= (1 + 1e-6) * errors.min()).nonzero()[-1])]

    @every_core()
    def predict(self, inputs: Tensor) -> Prediction:
        return Prediction(self.expand(inputs[:, 0].double()) @ self.weight)

    def stored(self) -> list[Stored]:
        """The projection is kept as the number that it follows from."""
        kept = {"class sums": self.sums, "second moments": self.second}
        return [Stored(kind, len(values), values.numel() * values.element_size()) for kind, values in kept.items()]

    def state_dict(self) -> dict[str, Any]:
        return {"seed": self.seed, "ridge": self.ridge, **{name: getattr(self, name) for name in ("second", "sums", "weight")}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.draw(state["seed"])
        self.ridge = state["ridge"]
        for name in ("second", "sums", "weight"):
            setattr(self, name, state[name].to(self.accelerator.device))


def ridge_weights(second: Tensor, targets: Tensor, ridge: float) -> Tensor:
    """Equation 6: (G + lambda I)^-1 Q. G's upper triangle [M, M], which is as it was afterwards; [M, C] -> [M, C].

    Errors: InputError for a lambda that vanishes beside G.
    """
    diagonal = second.diagonal().clone()
    second.diagonal().add_(ridge)
    factor, failed = cholesky_ex(second.T)  # which reads what is below its diagonal
    second.diagonal().copy_(diagonal)
    if failed:
        raise InputError(f"method.ridge={ridge:g} is lost by rounding beside features of this size: set a larger one, or null")
    return solve_triangular(factor.T, solve_triangular(factor, targets, upper=False), upper=True)


def ridge_errors(fit: Tensor, targets: Tensor, held: Tensor, wanted: Tensor, ridges: list[float]) -> Tensor:
    """-> mean squared error [len(ridges)] of regressions from `fit` [n, M] to `targets` [n, C] on rows `held` [m, M], `wanted` [m, C]

    With whichever of H^T H and H H^T is smaller: (H^T H + l I)^-1 H^T = H^T (H H^T + l I)^-1. Infinite for a lambda lost by rounding.
    """
    dual = len(fit) < fit.shape[1]
    products, right = gram(fit.T if dual else fit), targets if dual else fit.T @ targets
    left = held @ fit.T if dual else held
    solutions, failed = shifted_solutions(products, right, ridges)
    errors = torch.stack([(left @ solution - wanted).square().mean() for solution in solutions])
    return errors.masked_fill(failed, torch.inf)
