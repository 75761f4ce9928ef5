"""In which precision a generative model is held and computed. Chosen here alone, and the same in one process, in copies and in shares.

                                   precision=no         precision=bf16
encoder, and the features it gives method.dtype         method.dtype
decoder: weights, residual stream,
  keys and values, logits          method.dtype         bfloat16
what trains: weights, gradients, optimizer, and what it computes (projection, Q-Former, low-rank matrices): float32
likelihoods and losses: float32

So a step is never lost in the rounding of a weight, and a decoder is as its authors ran it. No autocast acts within: which operations it
casts depends on the device. precision=fp16, which is for GPUs and whole decoders alone, is autocast's.
"""

import contextlib
from typing import Any

import torch
from accelerate.state import AcceleratorState, is_initialized
from torch import nn

from data.errors import InputError
from methods.config import GMM

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}  # values of method.dtype


def decoder_dtype(options: GMM) -> torch.dtype:
    """-> in which the frozen weights of the decoder are held"""
    bf16 = is_initialized() and AcceleratorState().mixed_precision == "bf16"
    return torch.bfloat16 if bf16 else DTYPES[options.dtype]


def said(options: GMM) -> str:
    """-> a word on it, for the plan and the record"""
    return str(decoder_dtype(options)).removeprefix("torch.")


def hold(decoder: nn.Module, dtype: torch.dtype) -> None:
    """Cast the frozen floating-point weights of a decoder, wherever they lie. Its buffers stay: tables of positions are float32.

    Errors: InputError
    """
    for weight in decoder.parameters():
        if weight.is_floating_point() and not weight.requires_grad and weight.dtype != dtype:
            weight.data = weight.data.to(dtype)
            if hasattr(weight, "ds_tensor"):
                _recast(weight.ds_tensor, dtype)


def _recast(share: torch.Tensor, dtype: torch.dtype) -> None:
    """Cast this process's share of a weight under ZeRO-3, in page-locked memory again where it lay there. Errors: InputError"""
    if not share.numel():
        raise InputError("the decoder was read onto a disk in float32 where precision=bf16 holds it in bfloat16: set method.dtype=bfloat16")
    pinned, cast = share.is_pinned(), share.data.to(dtype)
    share.data = cast.pin_memory() if pinned else cast


def as_held(device: torch.device) -> Any:
    """-> a block without autocast but that of float16"""
    if torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type) == torch.float16:
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)
