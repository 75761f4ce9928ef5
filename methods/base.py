"""The interface of a method.

Shapes: B batch, C classes seen so far.
"""

import importlib
from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

from accelerate import Accelerator
from torch import Tensor, nn

from data.errors import one_of
from data.stream import Task
from methods.config import METHODS
from methods.learning.sharding import elements


class Prediction(NamedTuple):
    scores: Tensor  # [B, C] over all classes seen so far; class-IL = argmax, task-IL = argmax inside the task; -inf rules a class out
    answers: list[str] | None = None  # [B] generated texts, for generative methods
    invalid: Tensor | None = None  # [B] bool, answers that do not follow the asked form
    head_scores: Tensor | None = None  # [B, C] of the network's own head, where the method classifies by something else


class Stored(NamedTuple):
    """Something kept from past tasks."""

    kind: str  # "exemplars", "prototypes", …
    items: int
    bytes: int
    budget: int | None = None  # most items allowed, where one was set


class Method(ABC):
    """One continual learner. Nothing here knows the number of processes: `fit` and `embed` do."""

    Config: ClassVar[type]
    scoring: str = "argmax"  # the rule that turns an image into a class; leaderboards do not mix rules
    scenarios: ClassVar[tuple[str, ...]] = ("class", "domain")  # what may be new in a task
    trained: ClassVar[bool] = True  # False: closed form, equal to the last bit on any number of processes
    sharded: ClassVar[bool] = False  # True: trains through `methods.learning.sharding.place`, and so under DeepSpeed and FSDP, too
    predicting: ClassVar[tuple[str, ...]] = ()  # options that act when an image is scored and never while learning: `rescore` changes them
    views: bool = False  # True: an encoder's training rows are augmented anew each epoch, and come as images, which `fit` encodes
    encoder: Any = None  # a FrozenEncoder: if set, rows come as its cached features instead of images

    def __init__(self, config: Any, accelerator: Accelerator):
        self.config, self.accelerator = config, accelerator

    @abstractmethod
    def learn(self, task: Task) -> None:
        """Learn from one task. Called on every rank; leaves equal weights on every rank."""

    @abstractmethod
    def predict(self, inputs: Tensor) -> Prediction:
        """Score a batch, without a task id and without gradients. inputs: uint8 [B, 3, H, W], or features [B, L, D]"""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """-> everything needed to go on: nets, memory, counters; never frozen weights"""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    def check(self, classes: int) -> None:
        """Called before the first task with the number of classes of the whole stream, which `learn` never sees.

        Errors: InputError for options that cannot last for so many classes.
        """
        return

    def check_tasks(self, tasks: int) -> None:
        """Called before the first task with the number of tasks. Errors: InputError for options that cannot last for so many."""
        return

    def check_names(self, names: tuple[str, ...]) -> None:
        """Called before the first task with the names of all classes of the stream, and kept by none.

        Errors: InputError for names that the method's models cannot read, or cannot tell apart.
        """
        return

    def shape(self, names: tuple[str, ...]) -> tuple[Any, tuple[int, int], int] | None:
        """-> of a generative method, for a plan: its model, L and D of an image's features, tokens of the longest answer to these names"""
        return None

    def stored(self) -> list[Stored]:
        """-> what is kept from the past"""
        return []

    def pictures(self, task: Task) -> dict[str, Tensor]:
        """-> images worth looking at after a task: columns by title, each uint8 [n, 3, H, W] of the same n. Called on every rank."""
        return {}

    @classmethod
    def variant(cls, config: Any) -> str:
        """-> the name that leaderboards show, with the variant where the options make another method of it"""
        return config.name

    def id(self) -> str:
        return self.variant(self.config)

    def networks(self) -> list[nn.Module]:
        """-> the networks in use, for counting parameters; the frozen encoder is added by itself"""
        return []

    def parameters(self) -> dict[str, int]:
        """-> numbers of parameters {"total", "trainable"}"""
        networks = self.networks() + ([self.encoder.module] if self.encoder is not None else [])
        every = {id(parameter): parameter for network in networks for parameter in network.parameters()}.values()
        return {"total": sum(map(elements, every)), "trainable": sum(elements(p) for p in every if p.requires_grad)}

    def weights(self) -> dict[str, str]:
        """-> sha256 of every pretrained file used, by name"""
        return self.encoder.weights if self.encoder is not None else {}

    def models(self) -> dict[str, dict[str, Any]]:
        """-> for each published model used, by its part: library, tag, what it is fed and how, sha256 of its weights; see `Fed`"""
        return {"encoder": self.encoder.said()} if self.encoder is not None else {}


def method_class(name: str) -> type[Method]:
    """-> the class of a registered method. Errors: InputError with the nearest name."""
    one_of("method", name, METHODS)
    module, attribute = METHODS[name].split(":")
    return getattr(importlib.import_module(module), attribute)
