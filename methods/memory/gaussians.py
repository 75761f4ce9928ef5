"""A Gaussian of each class's features, kept in place of images, and features drawn from it.

Shapes: B batch, C classes, D features, n rows of a class.
"""

import torch
from torch import Tensor

from data.errors import InputError
from methods.base import Stored


def gaussian(features: Tensor) -> tuple[Tensor, Tensor]:
    """-> mean [D] of features [n, D], and L [D, D] of which L L^T is their unbiased covariance + 1e-4 I

    Of one row it is 1e-4 I. Errors: InputError where the 1e-4 is lost by rounding.
    """
    mean = features.mean(0)
    around = features - mean
    covariance = around.T @ around / max(1, len(features) - 1)
    covariance.diagonal().add_(1e-4)
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if failed:
        raise InputError("the backbone's features are too large to draw others like them: lower method.lr")
    return mean, factor


class Gaussians:
    """Means and covariances of the classes seen, as they were when each was learnt. A covariance is kept as its factor L."""

    def __init__(self, device: torch.device):
        self.means, self.factors = torch.empty(0, device=device), torch.empty(0, device=device)  # [C, D], [C, D, D]

    def add(self, features: Tensor, labels: Tensor, classes: range) -> None:
        """features: [N, D]; labels: int64 [N]; classes: the next ones, each with rows. Sums are in float64."""
        found = [gaussian(features[labels == label].to(self.means.device).double()) for label in classes]
        means, factors = (torch.stack(each).float() for each in zip(*found, strict=True))
        self.means, self.factors = torch.cat([self.means, means]), torch.cat([self.factors, factors])

    def spread(self, noise: Tensor, labels: Tensor) -> Tensor:
        """standard normal e [B, D], int64 y [B] -> L_y e, of the covariance of each row's class"""
        found = torch.empty_like(noise)
        with torch.autocast(noise.device.type, enabled=False):  # what is drawn is float32, whatever the heads compute in
            for label in labels.unique():
                found[labels == label] = noise[labels == label] @ self.factors[label].T
        return found

    def stored(self) -> list[Stored]:
        kept = {"class means": self.means, "class covariances": self.factors}
        return [Stored(kind, len(values), values.numel() * values.element_size()) for kind, values in kept.items()]

    def state_dict(self) -> dict[str, Tensor]:
        return {"means": self.means, "factors": self.factors}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.means, self.factors = (state[name].to(self.means.device) for name in ("means", "factors"))
