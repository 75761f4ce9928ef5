"""Joint: one model trained anew on all data seen so far. The ceiling of every table; it keeps everything."""

from dataclasses import replace

from data.stream import Rows, Task
from methods import config
from methods.base import Stored
from methods.classifier import Classifier
from methods.finetune import Finetune


class Joint(Finetune):
    Config = config.Joint

    def __init__(self, config: config.Joint, accelerator):
        super().__init__(config, accelerator)
        self.past: Rows | None = None

    def learn(self, task: Task) -> None:
        self.net = Classifier(self.config).to(self.accelerator.device)
        seen = task.train if self.past is None else self.past + task.train
        super().learn(replace(task, train=seen))
        self.past = seen

    def stored(self) -> list[Stored]:
        return [Stored("training images", len(self.past), len(self.past) * self.past.item_bytes())] if self.past else []
