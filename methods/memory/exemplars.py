"""The exemplar memory: quota rules, herding, byte accounting. Selected on all rows, so equal on every rank.

Shapes: C classes, G classes herded at once, N rows, D features, m exemplars of a class.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.nn.utils.rnn import pad_sequence

from data.errors import InputError, one_of
from data.stream import Rows
from methods.base import Stored
from methods.config import Remembering
from methods.memory.ragged import joined, parted

NONE = torch.empty(0, dtype=torch.int64)  # no rows


def herding(features: Tensor, count: int, absent: Tensor | None = None) -> Tensor:
    """iCaRL, Algorithm 4: pick, one after another, the row that brings the mean of the picked closest to the class mean.

    features: [..., N, D], each [N, D] of one class, any scale (normalised here, as is their mean); absent: bool [..., N],
    rows that only pad a class. -> int64 [..., min(count, N)], best first; where a class has fewer rows, the rest is padding.
    O(count N D) and no wait for the device: |mean - (row + chosen)/k| is least where row . r - |row|^2 / 2 is most,
    with r = k mean - chosen.
    """
    rows = normalize(features.double(), dim=-1)  # float64: the same choice on every machine
    taken = torch.zeros(rows.shape[:-1], dtype=torch.bool, device=rows.device) if absent is None else absent.clone()
    rows = rows.masked_fill(taken[..., None], 0)
    mean = normalize(rows.sum(-2), dim=-1)
    half = rows.square().sum(-1) / 2  # 1/2 but for a row of zeros
    residual, chosen = mean.clone(), []
    for _ in range(min(count, rows.shape[-2])):
        gain = (rows @ residual[..., None])[..., 0] - half
        best = gain.masked_fill(taken, -torch.inf).argmax(-1, keepdim=True)  # [..., 1]
        chosen.append(best)
        taken.scatter_(-1, best, True)
        residual += mean - rows.gather(-2, best[..., None].expand(*best.shape, rows.shape[-1]))[..., 0, :]
    return torch.cat(chosen, -1) if chosen else torch.empty(*rows.shape[:-2], 0, dtype=torch.int64, device=rows.device)


def herd_classes(features: Tensor, labels: Tensor, classes: Sequence[int], count: int) -> list[Tensor]:
    """Herding of several classes at once. features: [N, D], labels: [N] -> for each class positions int64 [<= count], best first"""
    members = [torch.nonzero(labels == label).flatten() for label in classes]
    table = pad_sequence([features[rows.to(features.device)] for rows in members], batch_first=True)  # [G, N, D]
    sizes = torch.tensor([len(rows) for rows in members], device=features.device)
    absent = torch.arange(table.shape[1], device=features.device) >= sizes[:, None]
    chosen = herding(table, count, absent).cpu()
    return [rows[picked[: len(rows)]] for rows, picked in zip(members, chosen, strict=True)]


def mixed(old: int, fresh: int, visits: int, quota: int) -> Tensor:
    """-> int64 [m], m <= quota: which of `old` items, from as many `visits`, and of `fresh` ones numbered after them stay, best first

    The fresh ones get an equal share and stand after each `visits` of the old, so that any first part holds an equal share of all.
    """
    fresh = min(fresh, quota // (visits + 1))
    kept, visits = min(old, quota - fresh), max(visits, 1)
    place = torch.cat([torch.arange(kept) / visits, torch.arange(fresh) + (visits - 0.5) / visits])
    return torch.cat([torch.arange(kept), old + torch.arange(fresh)])[place.argsort(stable=True)]


class WithCopies:
    """A store whose rows below zero are the memory's own copies: -1 the first."""

    def __init__(self, store: Any, copies: Tensor):
        self.store, self.copies, self.workers = store, copies, getattr(store, "workers", 0)
        self.encode = getattr(store, "encode", None)  # the copies are of what the store gives

    def __getitem__(self, index: Tensor) -> Tensor:
        own = index < 0
        if own.all():
            return self.copies[-1 - index]
        others = self.store[index[~own]]
        rows = others.new_empty(len(index), *others.shape[1:])
        rows[~own], rows[own] = others, self.copies[-1 - index[own]]
        return rows


def kept(options: Remembering) -> dict[str, Any]:
    """-> what an ExemplarMemory is made with"""
    rules = {"selection": options.selection, "per_class": options.per_class, "rounding": options.rounding, "own_copy": options.own_copy}
    return {"budget": options.memory, "budget_bytes": options.memory_bytes, **rules}


class ExemplarMemory:
    """Rows kept from the past: `budget` (or what fits into `budget_bytes`), shared equally by the classes seen, or `per_class` of each.

    The quota is rounded down, so that the budget is never exceeded (`rounding="ceil"` exceeds it, as iCaRL's release does).
    With `own_copy` the images themselves are kept, so that the source of old rows may be gone; else their row numbers.
    The lists are in order of priority: when the quota shrinks they are truncated, never chosen again (iCaRL, Algorithm 5).
    A class that comes again, in another domain, shares its quota equally among its domains: of a quota below their number the last
    ones keep none.
    Errors: InputError for a negative budget or an unknown rule.
    """

    def __init__(
        self,
        budget: int,
        selection: str = "herding",
        per_class: int | None = None,
        rounding: str = "floor",
        budget_bytes: int | None = None,
        own_copy: bool = False,
    ):
        one_of("method.selection", selection, ("herding", "random"))
        one_of("method.rounding", rounding, ("floor", "ceil"))
        if budget < 0:
            raise InputError(f"method.memory={budget} must not be negative")
        if per_class is not None and per_class < 1:
            raise InputError(f"method.per_class={per_class} must be at least 1: null sets a total with method.memory instead")
        if budget_bytes is not None and (per_class is not None or budget_bytes < 1):
            raise InputError(
                f"method.memory_bytes={budget_bytes} must be positive and goes without method.per_class: change it or leave one out"
            )
        self.total, self.selection, self.per_class, self.rounding, self.budget_bytes = budget, selection, per_class, rounding, budget_bytes
        self.own_copy = own_copy
        self.lists: dict[int, Tensor] = {}  # class id -> int64 [m], rows of the training split, best first
        self.copies: dict[int, Tensor] = {}  # class id -> their images [m, 3, H, W], for own_copy
        self.visits: dict[int, int] = {}  # class id -> tasks that brought rows of it
        self.item_bytes = 0

    def __len__(self) -> int:
        return sum(len(rows) for rows in self.lists.values())

    def check(self, classes: int) -> None:
        """Errors: InputError where the budget holds not one exemplar of each of all the `classes` of a stream."""
        if self.budget_bytes is None and not self.nothing:  # what an item costs is seen with the first rows
            self.quota(classes)

    @property
    def nothing(self) -> bool:
        """-> whether the options say to keep nothing"""
        return self.total == 0 and self.per_class is None and self.budget_bytes is None

    @property
    def budget(self) -> int:
        """-> exemplars over all classes; with a budget in bytes once the size of an item is known"""
        return self.total if self.budget_bytes is None else self.budget_bytes // max(self.item_bytes, 1)

    def cost(self, train: Rows) -> int:
        """-> bytes of one kept item"""
        return train.item_bytes()

    def rows(self, like: Rows) -> Rows:
        """-> the exemplars, class by class, as rows of the store of `like`, or of one that holds the copies beside it"""
        lists = sorted(self.lists.items())
        labels = [torch.full_like(rows, label) for label, rows in lists]
        index, labels = torch.cat([NONE, *(rows for _, rows in lists)]), torch.cat([NONE, *labels])
        if not self.copies:
            return Rows(like.store, index, labels)
        copies = torch.cat([self.copies[label] for label, _ in lists])
        return Rows(WithCopies(like.store, copies), -1 - torch.arange(len(index)), labels)

    def beside(self, train: Rows) -> Rows:
        """-> the rows of a task, and the exemplars after them"""
        exemplars = self.rows(train)
        return train.on(exemplars.store) + exemplars

    def quota(self, seen: int) -> int:
        """-> exemplars of each class when `seen` classes share the memory. Errors: InputError where it holds not one of each."""
        if self.per_class is not None:
            return self.per_class
        if self.budget < seen:
            raise InputError(
                f"method.memory={self.budget} holds no exemplar for each of the {seen} classes: set it to 0 or at least {seen}"
                if self.budget_bytes is None
                else f"method.memory_bytes={self.budget_bytes} holds no exemplar for each of the {seen} classes: "
                f"set it to at least {seen * self.item_bytes}"
            )
        return math.ceil(self.budget / seen) if self.rounding == "ceil" else self.budget // seen

    def update(self, train: Rows, classes: Iterable[int], features: Callable[[Rows], Tensor], generator: torch.Generator) -> None:
        """Shrink the old lists to the new quota and choose exemplars of the new classes.

        features: rows -> [N, D]; called once for all new classes, and only for herding. Errors: InputError if the budget
        is smaller than the number of classes.
        """
        if self.nothing:
            return
        self.item_bytes = self.cost(train)
        classes = sorted(set(classes))
        quota = self.quota(len(self.lists.keys() | set(classes)))
        new = train.at(torch.nonzero(torch.isin(train.labels, torch.tensor(classes, dtype=torch.int64))).flatten())
        if self.selection == "herding":
            picked = herd_classes(features(new), new.labels, classes, quota)
        else:
            members = [torch.nonzero(new.labels == label).flatten() for label in classes]
            picked = [rows[torch.randperm(len(rows), generator=generator)[:quota]] for rows in members]
        fresh = {label: new.index[rows] for label, rows in zip(classes, picked, strict=True)}
        for label in sorted(self.lists.keys() | fresh.keys()):
            rows, old = fresh.get(label, NONE), self.lists.get(label, NONE)
            chosen = mixed(len(old), len(rows), self.visits.get(label, 0), quota)
            self.keep(label, train.store, rows, chosen, generator)
            self.lists[label] = torch.cat([old, rows])[chosen]
            self.visits[label] = self.visits.get(label, 0) + bool(len(rows))

    def keep(self, label: int, store: Any, rows: Tensor, chosen: Tensor, generator: torch.Generator) -> None:
        """Keep more of a class than row numbers: of what is kept, followed by the `rows` of the store, what is `chosen`."""
        if self.own_copy:
            images = [self.copies[label]] if label in self.copies else []
            self.copies[label] = torch.cat([*images, *([store[rows]] if len(rows) else [])])[chosen]

    def stored(self) -> list[Stored]:
        if self.nothing:
            return []
        whole = self.per_class is not None or self.rounding == "ceil"
        budget = self.quota(len(self.lists)) * len(self.lists) if whole and self.lists else self.budget
        return [Stored("exemplars", len(self), len(self) * self.item_bytes, budget)]

    def state_dict(self) -> dict:
        return {"lists": joined(self.lists), "item_bytes": self.item_bytes, "copies": joined(self.copies), "visits": self.visits}

    def load_state_dict(self, state: dict) -> None:
        self.lists, self.item_bytes = parted(state["lists"]), state["item_bytes"]
        self.copies, self.visits = parted(state["copies"]), dict(state["visits"])
