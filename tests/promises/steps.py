"""Single optimizer steps of a method, each from given weights, so that nothing is enlarged from one to the next.

Sums in another order, of other processes or on another processor, differ in the last bits. Training enlarges that, a step does not.
After each step the weights become those from before it, moved by drawn numbers: all steps start from equal weights wherever they are
taken, and a method's loss meets weights that differ from its teacher's.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from bench.config import resolve
from bench.engine import learn, make_method
from bench.evaluation import evaluate
from data.source import load
from data.stream import TaskStream
from methods.base import method_class
from methods.config import METHODS
from methods.learning import training
from methods.learning.batches import GlobalBatches
from methods.networks.backbones import BACKBONES
from tests.conftest import QUICK, SMALL

TRAINED = sorted(name for name in METHODS if method_class(name).trained)
TASKS = 2  # the second one has a teacher and exemplars
FAULTY = "finetune"  # takes the steps with faults
UNEVEN = "method.batch_size=7"  # of which two processes see 4 and 3 rows
# Relative. Seen were at most 3e-7 in losses, 3e-5 in gradients and 1e-6 in scores; faults make 0.1 and more in gradients.
LOSSES, GRADIENTS, SCORES = 1e-5, 1e-3, 1e-4


class Smooth(nn.Module):
    """A backbone with batch normalisation and without ReLU, at whose edge the last bit of an activation decides on a whole gradient."""

    features, convolutional = 16, True

    def __init__(self):
        super().__init__()
        first, second = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.Conv2d(8, 16, 3, 2, 1, bias=False)
        self.stem = nn.Sequential(first, nn.BatchNorm2d(8), nn.GELU(), second, nn.BatchNorm2d(16), nn.GELU())

    def maps(self, x: Tensor) -> Tensor:
        return self.stem(x)

    def pool(self, maps: Tensor) -> Tensor:
        return maps.mean((2, 3))


def overrides(name: str) -> list[str]:
    given = [f"method={name}", *QUICK.get(name, []), *SMALL, UNEVEN]
    residual = "backbone" in (method := resolve(given).method) and method.backbone.startswith("resnet")
    return given + ["method.backbone=smooth"] * residual


def steps(name: str, accelerator: Accelerator, tasks: int = TASKS) -> dict[str, Any]:
    """Take the steps of a method's first tasks. -> of each step loss, rates and gradient; what is kept and scores at the end"""
    config = resolve(overrides(name))
    stream = TaskStream(load(config.stream), config.stream)
    taken: list[dict[str, Any]] = []
    losses: list[float] = []
    with patch.dict(BACKBONES, smooth=Smooth), noted(taken):
        method = make_method(config, accelerator, stream)
        for number in range(tasks):
            learn(config, accelerator, method, stream, number, lambda values: losses.append(values["loss"]))
        scored = evaluate(accelerator, method, stream, tasks - 1, config)
    kept = method.memory.lists if hasattr(method, "memory") else {}
    return {
        "processes": accelerator.num_processes,
        "losses": losses,
        "rates": [step["rates"] for step in taken],
        "gradients": [step["gradient"] for step in taken],
        "exemplars": {label: rows.tolist() for label, rows in kept.items()},
        "stored": [tuple(one) for one in method.stored()],
        "scored": scored,
    }


@contextlib.contextmanager
def noted(taken: list[dict[str, Any]]) -> Iterator[None]:
    """Inside the block each optimizer step is noted, with the gradients as the optimizer gets them, and then replaced by a drawn one."""
    before: list[Tensor] = []

    def weights(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
        return [weight for group in optimizer.param_groups for weight in group["params"]]

    def note(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        before[:] = [weight.detach().clone() for weight in weights(optimizer)]
        gradients = [weight.grad if weight.grad is not None else torch.zeros_like(weight) for weight in weights(optimizer)]
        whole = torch.cat([gradient.detach().flatten() for gradient in gradients])
        taken.append({"rates": [group["lr"] for group in optimizer.param_groups], "gradient": whole})

    @torch.no_grad()
    def replace_by_drawn(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        draws = torch.Generator().manual_seed(len(taken))
        for weight, old in zip(weights(optimizer), before, strict=True):
            weight.copy_(old + 0.1 * (torch.rand(old.shape, generator=draws) - 0.5) * (old.abs() + 0.01))

    hooks = register_optimizer_step_pre_hook(note), register_optimizer_step_post_hook(replace_by_drawn)
    try:
        with patch.object(training, "REPORT_EVERY", 1):  # the loss of each step, as `fit` averages it over the processes
            yield
    finally:
        for hook in hooks:
            hook.remove()


def agree(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Assert that the same steps were taken, but for last bits, and the same exemplars kept, and that each row got its score, once."""
    assert other["rates"] == one["rates"] and len(other["losses"]) == len(one["losses"]) == len(one["gradients"]) > 1
    losses = max(abs(b - a) / abs(a) for a, b in zip(one["losses"], other["losses"], strict=True))
    gradients = max(float((b - a).norm() / a.norm()) for a, b in zip(one["gradients"], other["gradients"], strict=True))
    ours, theirs = one["scored"], other["scored"]
    scores = abs(ours.score - theirs.score).max() / ours.score.abs().max()
    print(f"losses differ by {losses:.1e}, gradients by {gradients:.1e}, scores by {scores:.1e}")
    assert losses < LOSSES and gradients < GRADIENTS and scores < SCORES
    assert theirs.drop(columns="score").equals(ours.drop(columns="score"))
    assert other["exemplars"] == one["exemplars"] and other["stored"] == one["stored"]


def replanned(change: Callable[[Iterator], Iterator], **of_all: int) -> Any:
    plan = GlobalBatches._plan
    return patch.object(GlobalBatches, "_plan", lambda self: (vars(self).update(of_all), change(plan(self)))[1])


# What a mistake in the way of training over several processes would do.
FAULTS: dict[str, Callable[[], Any]] = {
    "a step is left out": lambda: replanned(lambda plan: (pair for pair in plan if pair[1].step != 1)),
    "rows are seen twice": lambda: replanned(iter, rank=0),
    "gradients are not averaged": lambda: patch.object(training, "synced", lambda accelerator, net, last: accelerator.no_sync(net)),
    "batch statistics are each process's": lambda: patch.object(training, "global_statistics", lambda *_: contextlib.nullcontext()),
    "each process weighs the same": lambda: replanned(lambda plan: ((rows, replace(micro, weight=1.0)) for rows, micro in plan)),
}


def with_faults(accelerator: Accelerator) -> dict[str, dict[str, Any]]:
    """-> steps of one task by fault. The engine, which would stop as soon as the processes differ, is kept from asking."""
    found = {"none": steps(FAULTY, accelerator, tasks=1)}
    for fault, here in FAULTS.items():
        with here(), patch("bench.engine.gather_object", lambda own: own):
            found[fault] = steps(FAULTY, accelerator, tasks=1)
    return found
