"""GMM: Generative Multi-modal Models are Good Class-Incremental Learners (Cao et al., CVPR 2024, arXiv 2403.18383).

The image is described, not classified: no head grows, so old and new classes do not compete for one. Shapes: B batch,
C classes seen, L visual tokens, D features.
"""

import math
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from data.errors import InputError
from data.stream import Batch, Task
from methods import config
from methods.base import Method, Prediction, Stored
from methods.gmm.match import packaged_text_encoder
from methods.gmm.prompt import read_answer
from methods.gmm.vlm import VLM, load_vlm
from methods.memory import ExemplarMemory
from methods.training import current, embed, fit


class GMM(Method):
    Config = config.GMM
    scoring = "nearest name to the generated text"

    def __init__(self, config: config.GMM, accelerator: Accelerator):
        super().__init__(config, accelerator)
        if math.isqrt(max(config.visual_tokens - 1, 0)) ** 2 != config.visual_tokens - 1:
            raise InputError(f"method.visual_tokens={config.visual_tokens} must be 1 plus a square: 1, 2, 5 or 10")
        self.encoder, self.vlm = load_vlm(config.vlm, config.visual_tokens, config.question, config.answer)
        self.vlm.to(accelerator.device)
        self.text_encoder = packaged_text_encoder()
        self.memory = ExemplarMemory(config.memory, config.selection)
        self.names: list[str] = []  # of all classes seen, in order of arrival

    def check(self, classes: int) -> None:
        self.memory.check(classes)

    def learn(self, task: Task) -> None:
        self.names += [name for name in task.class_names if name not in self.names]
        answers = [self.vlm.prompt.answer_tokens(name) for name in self.names]

        def loss(vlm: VLM, batch: Batch) -> Tensor:
            tokens, mask = self.vlm.prompt.batch([answers[label] for label in batch.labels.tolist()])
            return vlm(batch.inputs, tokens.to(batch.inputs.device), mask.to(batch.inputs.device)).mean()

        rows = task.train
        for _ in range(self.config.replay):
            rows = rows + self.memory.rows(task.train)
        fit(self.accelerator, self.vlm, rows, loss, self.config)
        self.memory.update(task.train, task.classes, self.pooled, current().generator(-1))

    def pooled(self, rows) -> Tensor:
        """-> features [N, D] of the pooled visual token, for herding"""
        (features,) = embed(self.accelerator, lambda batch: (batch.inputs[:, 0],), rows, self.config.predict_batch_size)
        return features

    def predict(self, inputs: Tensor) -> Prediction:
        answers = self.vlm.answer(inputs, self.config.max_new_tokens)
        words, valid = zip(*map(read_answer, answers), strict=True)
        scores = self.text_encoder.nearest(list(words), self.names)
        return Prediction(scores, answers, ~torch.tensor(valid))

    def stored(self) -> list[Stored]:
        return self.memory.stored()

    def networks(self) -> list[VLM]:
        return [self.vlm]

    def weights(self) -> dict[str, str]:
        return {**self.vlm.weights, **self.text_encoder.weights}

    def state_dict(self) -> dict[str, Any]:
        kept = {name: value for name, value in self.vlm.state_dict().items() if not name.startswith("decoder.")}
        return {"vlm": kept, "memory": self.memory.state_dict(), "names": self.names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        missing, unexpected = self.vlm.load_state_dict(state["vlm"], strict=False)
        if unexpected or any(not name.startswith("decoder.") for name in missing):
            raise InputError("the checkpoint is of another generative model: use the method.vlm it was written with")
        self.memory.load_state_dict(state["memory"])
        self.names = list(state["names"])
