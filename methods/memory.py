"""The exemplar memory: quota rules, herding, byte accounting. Selected on all rows, so equal on every rank.

Shapes: C classes, N rows, D features, m exemplars of a class.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from data.errors import InputError, unknown
from data.stream import Rows
from methods.base import Stored


def herding(features: Tensor, count: int) -> Tensor:
    """iCaRL, Algorithm 4: pick, one after another, the row that brings the mean of the picked closest to the class mean.

    features: [N, D] of one class, any scale (normalised here, as is their mean). -> int64 [min(count, N)], best first
    """
    rows = normalize(features.double(), dim=1)  # float64: the same choice on every machine
    mean = normalize(rows.mean(0), dim=0)
    chosen, total = [], torch.zeros_like(mean)
    taken = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
    for k in range(1, min(count, len(rows)) + 1):
        distance = (mean - (rows + total) / k).norm(dim=1).masked_fill(taken, torch.inf)
        best = int(distance.argmin())
        chosen.append(best)
        taken[best] = True
        total = total + rows[best]
    return torch.tensor(chosen, dtype=torch.int64)


class ExemplarMemory:
    """Rows kept from the past: `budget` in all, shared equally by the classes seen (quota rounded down, so never exceeded).

    The lists are in order of priority: when the quota shrinks they are truncated, never chosen again (iCaRL, Algorithm 5).
    """

    def __init__(self, budget: int, selection: str = "herding"):
        if selection not in ("herding", "random"):
            raise unknown("method.selection", selection, ("herding", "random"))
        if budget < 0:
            raise InputError(f"method.memory={budget} must not be negative")
        self.budget, self.selection = budget, selection
        self.lists: dict[int, Tensor] = {}  # class id -> int64 [m], rows of the training split, best first
        self.item_bytes = 0

    def __len__(self) -> int:
        return sum(len(rows) for rows in self.lists.values())

    def rows(self, like: Rows) -> Rows:
        """-> the exemplars as rows of the store of `like`, class by class"""
        lists = sorted(self.lists.items())
        labels = [torch.full_like(rows, label) for label, rows in lists]
        empty = torch.empty(0, dtype=torch.int64)
        return Rows(like.store, torch.cat([empty, *(rows for _, rows in lists)]), torch.cat([empty, *labels]))

    def update(self, train: Rows, classes: Iterable[int], features: Callable[[Rows], Tensor], generator: torch.Generator) -> None:
        """Shrink the old lists to the new quota and choose exemplars of the new classes.

        features: rows of one class -> [N, D]; only called for herding. Errors: InputError if the budget is smaller than
        the number of classes.
        """
        if self.budget == 0:
            return
        classes = sorted(set(classes) - set(self.lists))
        seen = len(self.lists) + len(classes)
        quota = self.budget // seen
        if quota == 0:
            raise InputError(
                f"method.memory={self.budget} holds no exemplar for each of the {seen} classes seen: set it to 0 or at least {seen}"
            )
        self.lists = {label: rows[:quota] for label, rows in self.lists.items()}
        for label in classes:
            rows = train.of_class(label)
            if self.selection == "herding":
                chosen = herding(features(rows), quota)
            else:
                chosen = torch.randperm(len(rows), generator=generator)[:quota]
            self.lists[label] = rows.index[chosen]
        self.item_bytes = train.item_bytes()

    def stored(self) -> list[Stored]:
        return [Stored("exemplars", len(self), len(self) * self.item_bytes, self.budget)] if self.budget else []

    def state_dict(self) -> dict:
        return {"lists": self.lists, "item_bytes": self.item_bytes}

    def load_state_dict(self, state: dict) -> None:
        self.lists, self.item_bytes = dict(state["lists"]), state["item_bytes"]
