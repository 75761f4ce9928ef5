"""GMM: Generative Multi-modal Models are Good Class-Incremental Learners (Cao et al., CVPR 2024, arXiv 2403.18383).

The image is described, not classified: no head grows, so old and new classes do not compete for one. Shapes: B batch,
C classes seen, L visual tokens, D features.
"""

from copy import copy
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from data.errors import InputError, one_of
from data.images.augment import ResizedCrop
from data.stream import Batch, Task
from methods import config
from methods.base import Method, Prediction, Stored
from methods.gmm.agree import check_agreement
from methods.gmm.likelihood import likelihoods
from methods.gmm.match import exact, make_text_encoder
from methods.gmm.models import load_vlm
from methods.gmm.names import check_names, nearest
from methods.gmm.prompt import read_answer
from methods.gmm.vlm import VLM
from methods.learning.sharding import is_sharded, place, planned
from methods.learning.states import load_trained, trained_state
from methods.learning.training import current, embed, fit
from methods.memory.exemplars import ExemplarMemory

SCORING = {
    "nearest": "nearest name to the generated text",
    "exact": "the generated text is the name",
    "likelihood": "likelihood of the name, per token",
}


class GMM(Method):
    Config = config.GMM
    sharded = True
    predicting = ("scoring", "text_encoder", "max_new_tokens")

    def __init__(self, config: config.GMM, accelerator: Accelerator):
        super().__init__(config, accelerator)
        one_of("method.scoring", config.scoring, SCORING)
        self.scoring = SCORING[config.scoring]
        if is_sharded():
            _check_shares(config)
        self.encoder, self.vlm = load_vlm(config)
        # As the release trains, which resizes crops bicubically, where this does it bilinearly.
        self.crop = None if config.crop is None else ResizedCrop(self.encoder.fed.size, config.crop, flip=False)
        self.views = self.crop is not None
        place(accelerator, self.vlm, config)
        if config.vlm == "composed" and planned() is None:
            check_agreement(self.vlm, self.encoder.shape[0], config.scoring == "likelihood", f"method.decoder={config.decoder}")
        self.text_encoder = make_text_encoder(config.text_encoder, self.vlm) if config.scoring == "nearest" else None
        self.memory = ExemplarMemory(config.memory, config.selection)
        self.names: list[str] = []  # of all classes seen, in order of arrival
        self.tasks: list[int] = []  # how many of them came with each task
        self.answers: dict[str, list[int]] = {}  # their tokens, which take a while to make

    def check(self, classes: int) -> None:
        self.memory.check(classes)

    def check_names(self, names: tuple[str, ...]) -> None:
        check_names(names, self.config, self.vlm.prompt, self.text_encoder)

    def learn(self, task: Task) -> None:
        new = [name for name in task.class_names if name not in self.names]
        self.names, self.tasks = self.names + new, [*self.tasks, len(new)]
        self.answers |= {name: self.vlm.prompt.answer_tokens(name) for name in self.names if name not in self.answers}
        tokens, mask = self.vlm.prompt.batch([self.answers[name] for name in self.names])  # [C, A]

        def loss(vlm: VLM, batch: Batch) -> Tensor:
            labels, device = batch.labels.cpu(), batch.inputs.device
            longest = int(mask[labels].sum(1).max())
            return vlm(batch.inputs, tokens[labels, :longest].to(device), mask[labels, :longest].to(device)).mean()

        rows = task.train
        for _ in range(self.config.replay):
            rows = rows + self.memory.rows(task.train)
        options = copy(self.config)
        if task.index and options.later_lr is not None:
            options.lr = options.later_lr
        fit(self.accelerator, self.vlm, rows, loss, options, self.crop)
        self.memory.update(task.train, task.classes, self.pooled, current().generator(-1))

    def pooled(self, rows) -> Tensor:
        """-> features [N, D] of the pooled visual token, for herding"""
        (features,) = embed(self.accelerator, lambda batch: (self.encoder.pooled(batch.inputs),), rows, self.config.predict_batch_size)
        return features

    def predict(self, inputs: Tensor) -> Prediction:
        """The share of invalid answers goes with those that are generated; `likelihood` generates none."""
        if self.config.scoring == "likelihood":
            return Prediction(likelihoods(self.vlm, inputs, self.names, self.tasks))
        answers = self.vlm.answer(inputs, self.config.max_new_tokens)
        words, valid = zip(*(read_answer(answer, self.config.answer) for answer in answers), strict=True)
        if self.config.scoring == "exact":
            scores = exact(list(words), self.names)
            return Prediction(scores, answers, scores.amax(1).isneginf())
        scores = nearest(self.text_encoder, list(words), self.names)
        return Prediction(scores, answers, ~torch.tensor(valid))

    def shape(self, names: tuple[str, ...]) -> tuple[VLM, tuple[int, int], int]:
        return self.vlm, self.encoder.shape, max(len(self.vlm.prompt.answer_tokens(name)) for name in names)

    def stored(self) -> list[Stored]:
        return self.memory.stored()

    def networks(self) -> list[VLM]:
        return [self.vlm]

    def weights(self) -> dict[str, str]:
        return {**self.vlm.weights, **(self.text_encoder.weights if self.text_encoder else {})}

    def models(self) -> dict[str, dict[str, Any]]:
        return {**self.vlm.made_of, **({"text encoder": self.text_encoder.said()} if self.text_encoder else {})}

    def state_dict(self) -> dict[str, Any]:
        return {"vlm": trained_state(self.vlm), "memory": self.memory.state_dict(), "names": self.names, "tasks": self.tasks}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if not load_trained(self.vlm, state["vlm"]):
            raise InputError("the checkpoint is of another generative model: use the method.vlm it was written with")
        self.memory.load_state_dict(state["memory"])
        self.names, self.tasks = list(state["names"]), list(state["tasks"])


def _check_shares(options: config.GMM) -> None:
    """Errors: InputError for what does not go with a decoder in shares"""
    if options.quantize is not None:
        raise InputError(f"method.quantize={options.quantize} is for a whole decoder: leave it out, or launch without DeepSpeed and FSDP")
    if options.scoring == "nearest" and options.text_encoder == "decoder":
        raise InputError("method.text_encoder=decoder reads words, which here lie in shares: use minilm or open_clip:NAME")
