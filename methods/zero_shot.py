"""Zero-shot CLIP (Radford et al. 2021, arXiv 2103.00020), in tasks (Thengane et al. 2022, "Continual-CLIP", arXiv 2210.03114).

Nothing trains and no image is kept: an image takes the class whose name, put into sentences, is nearest in CLIP's joint space. What is
known after the last task depends neither on the order of the classes nor on the tasks. Shapes: B batch, C classes, E joint space.
"""

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.functional import normalize

from data.errors import InputError, one_of
from data.stream import Task
from methods import config
from methods.base import Method, Prediction, Stored
from methods.gmm.match import clip_text
from methods.gmm.prompt import spoken
from methods.icarl import nearest_mean
from methods.networks.backbones import encoder_of

TEMPLATES: dict[str, tuple[str, ...]] = {
    "photo": ("a photo of a {}.",),  # Radford et al., section 3.1.4
    "bad_photo": ("a bad photo of a {}.",),  # Continual-CLIP's on CIFAR-100 and Tiny-ImageNet
    "good_photo": ("a good photo of a {}.",),  # Continual-CLIP's on ImageNet and CORe50
    "bird": ("a photo of a {}, a type of bird.",),  # CLIP's on birds
    "cifar": tuple(  # CLIP's ensemble on CIFAR-100
        f"a {kind}photo of {article} {size}{{}}."
        for article in ("a", "the")
        for kind, size in [(kind, "") for kind in ("", "blurry ", "black and white ", "low contrast ", "high contrast ", "bad ", "good ")]
        + [("", "small "), ("", "big ")]
    ),
    "imagenet7": (  # the seven that CLIP's notebook found to be enough on ImageNet; C3Box's on ImageNet-R
        "itap of a {}.",
        "a bad photo of the {}.",
        "a origami {}.",
        "a photo of the large {}.",
        "a {} in a video game.",
        "art of the {}.",
        "a photo of the small {}.",
    ),
}


def class_vectors(texts: Tensor) -> Tensor:
    """The mean of a class's sentences, each of unit length before, itself of unit length after. [C, sentences, E] -> [C, E]"""
    return normalize(normalize(texts, dim=-1).mean(1), dim=-1)


class ZeroShot(Method):
    Config = config.ZeroShot
    scoring = "nearest text"
    trained = False

    def __init__(self, config: config.ZeroShot, accelerator: Accelerator):
        super().__init__(config, accelerator)
        one_of("method.templates", config.templates, TEMPLATES)
        if not config.encoder.startswith("open_clip:"):
            raise InputError(f"method.encoder={config.encoder} has no text tower for zero_shot: name a CLIP as open_clip:NAME")
        self.encoder, self.text = encoder_of(config), clip_text(config.encoder)
        self.text.model.visual = None  # the encoder is that tower
        self.vectors = torch.empty(0, self.encoder.features)  # [C, E]

    @classmethod
    def variant(cls, config: config.ZeroShot) -> str:
        return f"{config.name}-{config.templates}"

    def check_names(self, names: tuple[str, ...]) -> None:
        first: dict[tuple[int, ...], str] = {}
        for name in names:
            other = first.setdefault(tuple(self.text.tokens(spoken(name))), name)
            if other is not name:
                raise InputError(
                    f"the class names '{other}' and '{name}' are the same words to the text tower of method.encoder={self.config.encoder}, "
                    "so that one of them could never be the answer: rename one"
                )

    def learn(self, task: Task) -> None:
        """Learning a task is to hear the names that are new; in another domain there are none."""
        names = task.class_names[len(self.vectors) - task.classes.start :]
        if names:
            texts = [[template.format(spoken(name)) for template in TEMPLATES[self.config.templates]] for name in names]
            self.vectors = torch.cat([self.vectors, class_vectors(torch.stack([self.text(sentences) for sentences in texts]))])

    def predict(self, inputs: Tensor) -> Prediction:
        return Prediction(nearest_mean(inputs[:, 0], self.vectors.to(inputs.device)))

    def stored(self) -> list[Stored]:
        return [Stored("class vectors", len(self.vectors), self.vectors.numel() * self.vectors.element_size())]

    def networks(self) -> list[Any]:
        return [self.text.model]

    def weights(self) -> dict[str, str]:
        return {**self.encoder.weights, **self.text.weights}

    def models(self) -> dict[str, dict[str, Any]]:
        return {**super().models(), "text encoder": self.text.said()}

    def state_dict(self) -> dict[str, Any]:
        return {"vectors": self.vectors}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.vectors = state["vectors"]
