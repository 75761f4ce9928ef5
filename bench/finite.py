"""Nothing that is not a number is ever recorded: weights as read, weights after each task, scores. Each sentence names the true cause.

Losses are watched where they are made, in `methods.learning.training`.
"""

from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator
from omegaconf import DictConfig
from torch import Tensor, nn

from data.errors import InputError
from methods.base import Method


def check_loaded(method: Method) -> None:
    """Errors: InputError where a pretrained weight is not finite before anything was trained. Every rank looks at what it holds."""
    for where, tensor in _weights(method):
        if not _finite(tensor):
            names = ", ".join(method.weights()) or "no file"
            raise InputError(f"weight {where} is not finite as it was read ({names}): fetch the weights again, or choose others")


def check_learnt(method: Method, number: int, config: DictConfig, accelerator: Accelerator) -> None:
    """Errors: InputError where what a method learnt or kept in a task is not finite; on every rank, as the state is equal on all"""
    where = next((where for where, tensor in _tensors(method.state_dict()) if not _finite(tensor)), None)
    wrong = accelerator.reduce(torch.tensor(float(where is not None), device=accelerator.device), "sum").item()
    if wrong:
        raise InputError(f"after task {number + 1} {where or 'a weight'} is not finite: {cause(method, config)}")


def check_scores(scores: Tensor, method: Method, number: int, config: DictConfig) -> None:
    """scores: [N], the best of each row, -inf where every class was ruled out. Errors: InputError for NaN and infinity"""
    wrong = int((scores.isnan() | scores.isposinf()).sum())
    if wrong:
        raise InputError(
            f"after task {number + 1} {wrong} of {len(scores)} test rows got scores that are no numbers: {cause(method, config)}"
        )


def cause(method: Method, config: DictConfig) -> str:
    """-> why numbers of a method whose weights were finite when they were read are not, and what to do"""
    rate = config.method.get("lr")
    half = [f"precision={config.precision}"] if config.precision != "no" else []
    half += [f"method.dtype={config.method.dtype}"] if config.method.get("dtype", "float32") != "float32" else []
    if method.trained and rate is not None and config.method.get("epochs"):
        more = f", or leave out {' and '.join(half)}" if half else ""
        return f"training at learning rate {rate:g} diverged: lower method.lr or set method.clip{more}"
    said = f" in {' and '.join(half)}: leave that out" if half else ": choose other weights, or look at the images"
    return f"nothing was trained, and the weights are finite, so that the network overflows on these images{said}"


def _weights(method: Method) -> Iterator[tuple[str, Tensor]]:
    """-> every parameter, or the share of it that lies here, and every buffer, of all networks that the method holds"""
    held = {f"network {number + 1}": network for number, network in enumerate(method.networks())}
    held |= {name: network for name, value in vars(method).items() if (network := _network(value)) is not None}
    seen: set[int] = set()
    for name, network in held.items():
        for part, tensor in [*network.named_parameters(), *network.named_buffers()]:
            if id(tensor) not in seen:
                seen.add(id(tensor))
                yield f"{name}: {part}", getattr(tensor, "ds_tensor", tensor)


def _network(value: Any) -> nn.Module | None:
    """-> a network, itself or inside of an encoder of images or texts"""
    return next((one for one in (value, getattr(value, "module", None), getattr(value, "model", None)) if isinstance(one, nn.Module)), None)


def _tensors(state: Any, where: str = "") -> Iterator[tuple[str, Tensor]]:
    """-> the tensors in a nest of dicts, lists and plain values, with their names"""
    if isinstance(state, Tensor):
        yield where.lstrip("."), state
    elif isinstance(state, dict):
        for key, value in state.items():
            yield from _tensors(value, f"{where}.{key}")
    elif isinstance(state, (list, tuple)):
        for number, value in enumerate(state):
            yield from _tensors(value, f"{where}.{number}")


def _finite(tensor: Tensor) -> bool:
    """Minus infinity passes: attention masks are made of it."""
    tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    if not tensor.dtype.is_floating_point or tensor.is_meta or not tensor.numel():
        return True
    values = tensor.detach().float() if tensor.dtype.itemsize == 1 else tensor.detach()
    return not bool((values.isnan() | values.isposinf()).any())
