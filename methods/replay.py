"""Experience replay: cross-entropy on the new task and the exemplars kept of the old ones, in one shuffled epoch.

Shapes: B batch, N rows, D features.
"""

from typing import Any

from accelerate import Accelerator
from torch import Tensor

from data.errors import InputError
from data.stream import Batch, Rows, Task
from methods import config
from methods.base import Stored
from methods.finetune import Finetune
from methods.learning.training import current, embed, fit
from methods.memory.exemplars import ExemplarMemory, kept


class Replay(Finetune):
    Config = config.Replay

    def __init__(self, config: config.Remembering, accelerator: Accelerator):
        super().__init__(config, accelerator)
        if config.own_copy and self.encoder is not None:
            raise InputError("method.own_copy=true keeps images, which method.augment=false leaves unread with a frozen backbone: drop one")
        self.memory = ExemplarMemory(**kept(config))

    def check(self, classes: int) -> None:
        self.memory.check(classes)

    def learn(self, task: Task) -> None:
        self.net.grow(task.classes.stop)
        fit(self.accelerator, self.net, self.memory.beside(task.train), self.loss, self.config, self.augment(task))
        self.memory.update(task.train, task.classes, self.embedded, current().generator(-1))

    def embedded(self, rows: Rows, mirrored: bool = False) -> Tensor:
        """-> features [N, D] of the images (or their mirror images) as at test time: running batch statistics, no random crop"""

        def encode(batch: Batch) -> tuple[Tensor]:
            return (self.net.features(batch.inputs.flip(-1) if mirrored else batch.inputs),)

        (features,) = embed(self.accelerator, encode, rows, self.config.batch_size)
        return features.float().to(self.accelerator.device)

    def stored(self) -> list[Stored]:
        return self.memory.stored()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "memory": self.memory.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.memory.load_state_dict(state["memory"])
