"""How a frozen encoder's features will be fed: bytes of the tables, the room there is, and how many images a second a decoder takes."""

import shutil
import time
from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from bench.planning.estimate import Layout, visual_tokens
from data.caching.cache import cache_dir
from data.caching.entries import limit
from methods.networks.backbones import FrozenEncoder
from methods.networks.features import Choice

GIB = 2**30


def feature_lines(encoder: FrozenEncoder, choices: dict[str, Choice]) -> Iterator[str]:
    """-> lines on the tables of each split: size, room, which way it takes and why"""
    folder = cache_dir("features")
    free = shutil.disk_usage(folder).free
    total = sum(choice.table.bytes for choice in choices.values())
    shape = " x ".join(map(str, encoder.shape))
    yield (
        f"features {total / GIB:.2f} GiB as tables of {shape} numbers an image, under {folder} "
        f"({free / GIB:.0f} GiB free, CILBENCH_CACHE_GIB={limit() / GIB:g})"
    )
    for name, choice in choices.items():
        how = "from a table" if choice.way == "cache" else "with each batch"
        lacks = choice.way == "cache" and not choice.table.path.exists() and choice.table.bytes > free
        short = " — NOT ENOUGH ROOM: free some, or set features=live" if lacks else ""
        yield f"  {name:<7}{len(choice.table.rows):,} images, {choice.table.bytes / GIB:.2f} GiB: {how}, as {choice.why}{short}"


def encoder_bytes(encoder: FrozenEncoder | None, choices: dict[str, Choice]) -> int:
    """-> bytes of the encoder on each device while a method learns: none where all features come from tables"""
    if all(choice.way == "cache" for choice in choices.values()):
        return 0
    return sum(value.numel() * value.element_size() for value in encoder.module.parameters())


def feeding_line(accelerator: Accelerator, vlm: nn.Module, options: Any, how: Layout, features: tuple[int, int], answer: int) -> str:
    """-> a line: images a second that would keep the decoder busy while it trains, on all processes together, at most"""
    rate = products_a_second(accelerator.device, vlm.decoder.get_input_embeddings().weight.dtype) * how.world
    each = operations(vlm, options, features, answer)
    return (
        f"feeding  {rate / each:,.0f} images/s at most keep the decoder busy: {each / 1e9:,.2f} GFLOP a training row, "
        f"{rate / 1e12:,.2f} TFLOP/s in matrix products here"
    )


def operations(vlm: nn.Module, options: Any, features: tuple[int, int], answer: int) -> float:
    """-> floating-point operations of one training row: 2 for each weight and token forward, as many backward to the inputs

    As many again for a weight that trains, and a forward pass more where activations are computed again. Attention's own products,
    which grow with the square of so short a text, are left out.
    """
    tokens = visual_tokens(vlm, features) + len(vlm.prompt.question) + answer - 1 + (len(vlm.prompt.before) if vlm.tuned else 0)
    outside = {id(part.weight) for part in (vlm.decoder.get_input_embeddings(), vlm.decoder.get_output_embeddings())}
    layers = [value for value in vlm.decoder.parameters() if id(value) not in outside]
    head = vlm.decoder.get_output_embeddings().weight.numel()
    passes = 2 + options.gradient_checkpointing
    trained = sum(value.numel() for value in layers if value.requires_grad)
    return 2.0 * tokens * (passes * sum(value.numel() for value in layers) + trained) + 2.0 * 2 * answer * head


def products_a_second(device: torch.device, dtype: torch.dtype) -> float:
    """-> floating-point operations a second that a matrix product reaches on the device: measured, in less than a second"""
    size = 8192 if device.type == "cuda" else 768
    one = torch.ones(size, size, dtype=dtype, device=device)
    best = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        found = one @ one
        found[0, 0].item()  # waits for it
        best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best
