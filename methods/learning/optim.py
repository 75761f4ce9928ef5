"""Optimizers and learning-rate schedules, from the options of `methods.config.Training`."""

import math
from typing import Any

import torch
from torch import nn

from data.errors import InputError, one_of
from methods.config import Training


def make_optimizer(model: nn.Module, options: Training) -> torch.optim.Optimizer:
    """-> the optimizer over the parameters that require gradients, in groups of the same decay and the same share of the learning rate

    A model may say `rates`, shares of the rate by a part of the parameters' names: {"backbone.": 0.01} is SLCA's slow learner, and
    {".lora_": 0.1} would let the low-rank matrices of a decoder learn more slowly than its projector.
    """
    one_of("method.decay", options.decay, ("all", "matrices"))
    one_of("method.optimizer", options.optimizer, ("sgd", "adamw"))
    if options.schedule == "multistep" and not options.milestones:
        raise InputError("method.schedule=multistep never changes the rate without method.milestones: give some, or set it to constant")
    groups: dict[tuple[bool, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = options.decay == "all" or parameter.ndim >= 2
            share = next((share for part, share in getattr(model, "rates", {}).items() if part in name), 1.0)
            group = {"params": [], "weight_decay": options.weight_decay if decays else 0.0, "share": share}
            groups.setdefault((not decays, share), group)["params"].append(parameter)
    groups = [groups[key] for key in sorted(groups)]
    if options.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=options.lr, momentum=options.momentum, nesterov=options.nesterov)
    return torch.optim.AdamW(groups, lr=options.lr)


def learning_rate(options: Training, step: int, steps: int, steps_an_epoch: int) -> float:
    """-> the rate of a step (0-based): linear warm-up, then the schedule, both on the step of the task

    The first step is one share of the way up, so that none has the rate `warmup_lr`: one step ahead of the schedule of GMM's release.
    """
    if step < options.warmup:
        return options.warmup_lr + (options.lr - options.warmup_lr) * (step + 1) / options.warmup
    if options.schedule == "constant":
        return options.lr
    if options.schedule == "cosine":
        return options.min_lr + (options.lr - options.min_lr) * 0.5 * (1 + math.cos(math.pi * step / steps))
    one_of("method.schedule", options.schedule, ("constant", "cosine", "quarter", "multistep"))
    if options.schedule == "quarter":  # CODA-Prompt's release: by epochs, 0.495 of pi at the last one
        return options.lr * math.cos(0.495 * math.pi * (step // steps_an_epoch) / max(1, options.epochs - 1))
    return options.lr * options.factor ** sum(step // steps_an_epoch >= epoch for epoch in options.milestones)
