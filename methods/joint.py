"""Joint: one model trained anew on all data seen so far. The ceiling of every table; it keeps everything."""

from dataclasses import replace
from typing import Any

import torch

from data.stream import Rows, Task
from methods import config
from methods.base import Stored
from methods.finetune import Finetune


class Joint(Finetune):
    Config = config.Joint

    def __init__(self, config: config.Joint, accelerator):
        super().__init__(config, accelerator)
        empty = torch.empty(0, dtype=torch.int64)
        self.past = (empty, empty)  # rows of the training split and their labels
        self.item_bytes = 0

    def learn(self, task: Task) -> None:
        self.net = self.new_net()
        seen = Rows(task.train.store, *self.past) + task.train
        super().learn(replace(task, train=seen))
        self.past, self.item_bytes = (seen.index, seen.labels), seen.item_bytes()

    def stored(self) -> list[Stored]:
        return [Stored("training images", len(self.past[0]), len(self.past[0]) * self.item_bytes)]

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "past": self.past, "item_bytes": self.item_bytes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.past, self.item_bytes = tuple(state["past"]), state["item_bytes"]
