"""What a generative model takes of a device's memory while it trains, told before any weight is read.

Weights, gradients and optimizer follow from the numbers of parameters and from how the launch lays them out; activations are counted in
a forward pass of the model without weights. Shapes: B batch, D image features, E decoder width, L image tokens, V vocabulary.
"""

import contextlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed.fsdp import CPUOffloadPolicy

from data.errors import one_of
from methods.gmm.queries import Queries
from methods.learning.batches import GlobalBatches

GIB = 2**30
MASTER = 4  # bytes of a trained weight, of its gradient, and of each state that its optimizer keeps: float32
LIVE, BUCKET = 10**9, 5 * 10**7  # weights that ZeRO-3 keeps gathered at most, and that it fetches at once: DeepSpeed's defaults


@dataclass(frozen=True)
class Layout:
    """How `accelerate launch` lays a model out."""

    kind: str  # one process | copies | ZeRO-2 | ZeRO-3 | FSDP2
    world: int = 1
    weights_off: bool = False  # frozen and trained weights wait in main memory
    optimizer_off: bool = False  # so does the optimizer


def layout(accelerator: Accelerator) -> Layout:
    """-> what the accelerator was told"""
    world = accelerator.num_processes
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        plugin = accelerator.deepspeed_plugin
        away = [plugin.hf_ds_config.get_value(f"zero_optimization.offload_{part}.device", "none") for part in ("param", "optimizer")]
        stage = plugin.zero_stage
        return Layout(f"ZeRO-{stage}", world, stage == 3 and away[0] not in ("none", None), away[1] not in ("none", None))
    if accelerator.distributed_type == DistributedType.FSDP:
        away = isinstance(accelerator.state.fsdp_plugin.cpu_offload, CPUOffloadPolicy)
        return Layout("FSDP2", world, away, away)
    return Layout("copies" if world > 1 else "one process", world)


def device_bytes(vlm: nn.Module, options: Any, how: Layout, features: tuple[int, int], answer: int, asked: int = 0) -> dict[str, float]:
    """-> bytes on the busiest device at the peak of a training step, or of answering if that takes more, by what takes them

    vlm: a `VLM` without weights; options: the method's; features: L and D of an image; answer: tokens of the longest one; asked: rows that
    are answered at once, 0 = none.
    """
    frozen = [p for p in vlm.parameters() if not p.requires_grad]
    trained = sum(p.numel() for p in vlm.parameters() if p.requires_grad)
    deepspeed = how.kind.startswith("ZeRO")
    stored, own = sum(p.numel() * p.element_size() for p in frozen), trained * MASTER  # as methods.gmm.numerics holds them
    share = how.world if how.kind in ("ZeRO-3", "FSDP2") else 1
    split = how.world if share > 1 or deepspeed else 1  # of gradients and optimizer
    weights = 0.0 if how.weights_off else (stored + own) / share
    one_of("method.optimizer", options.optimizer, ("sgd", "adamw"))
    states = {"adamw": 2, "sgd": 1 if options.momentum else 0}[options.optimizer] + deepspeed  # DeepSpeed's master weights
    rows = largest_micro_batch(options.batch_size, options.accumulate, how.world)
    return {
        "weights": weights,
        "gathered": _gathered(vlm, how, frozen, trained),
        "gradients": trained * MASTER * (1 / split + (deepspeed or how.kind == "copies")),  # and the buffer they are averaged in
        "optimizer": 0.0 if how.optimizer_off else trained * MASTER * states / split,
        "activations": max(activations(vlm, rows, features, answer, how), answering(vlm, asked, features, options.max_new_tokens, how)),
    }


def module_bytes(module: Any) -> float:
    """-> bytes of a frozen network that is whole on each device"""
    return float(sum(p.numel() * p.element_size() for p in module.parameters())) if isinstance(module, nn.Module) else 0.0


def largest_micro_batch(batch: int, accumulate: int, world: int) -> int:
    """-> rows of the largest part of a global batch that a process works on at once"""
    plan = GlobalBatches(batch, batch, accumulate, (0,), 0, 1, 0, world)
    return max(len(positions) for positions in plan)


def _gathered(vlm: nn.Module, how: Layout, frozen: list[nn.Parameter], trained: int) -> float:
    """-> bytes of the weights that are whole for a while"""
    if how.kind not in ("ZeRO-3", "FSDP2"):
        return 0.0
    size, total = max(p.element_size() for p in vlm.decoder.parameters() if not p.requires_grad), sum(p.numel() for p in frozen) + trained
    if how.kind == "ZeRO-3":
        fetched = BUCKET + max(p.numel() for p in vlm.parameters())  # come in a buffer, from which they are copied; the largest alone
        return size * (min(total, LIVE) + min(total, fetched))  # what is used again soon stays
    layers = [sum(p.numel() for p in m.parameters()) for m in vlm.modules() if type(m).__name__ in vlm._no_split_modules]
    return size * (total - sum(layers) + 3 * max(layers))  # the words and the head; a layer, the next, and the buffer that it comes in


def activations(vlm: nn.Module, rows: int, features: tuple[int, int], answer: int, how: Layout) -> float:
    """-> bytes that a forward pass of `rows` rows keeps for the backward pass, with the logits of the answers"""
    embeddings = vlm.decoder.get_input_embeddings()
    dtype = embeddings.weight.dtype
    length = visual_tokens(vlm, features) + len(vlm.prompt.question) + answer - 1
    inputs = torch.zeros(rows, length, embeddings.embedding_dim, device="meta", dtype=dtype, requires_grad=True)
    kept = saved_bytes(vlm, inputs)
    # Logits as the head gives them; in float32, where they are not; their logarithms, normalised; the gradient of those
    bytes_a_logit = dtype.itemsize + 8 + (4 if dtype.itemsize < 4 else 0)
    head = vlm.decoder.get_output_embeddings().weight
    return kept + rows * answer * head.shape[0] * bytes_a_logit


def answering(vlm: nn.Module, rows: int, features: tuple[int, int], longest: int, how: Layout) -> float:
    """-> bytes of the keys and values of `rows` rows when their answers are `longest` tokens long, and of the logits of their opening"""
    if not rows:
        return 0.0
    decoder, opening = vlm.decoder, len(vlm.prompt.opening)
    dtype = decoder.get_input_embeddings().weight.dtype
    with torch.no_grad(), _attention_of_kernels():
        cache = vlm._cache(1)
        length = visual_tokens(vlm, features) + len(vlm.prompt.question) + opening
        words = decoder.get_input_embeddings()
        inputs = torch.zeros(1, length, words.embedding_dim, device="meta", dtype=words.weight.dtype)
        decoder.base_model(inputs_embeds=inputs, past_key_values=cache, use_cache=True)
    numbers = sum(layer.keys[0, :, 0].numel() + layer.values[0, :, 0].numel() for layer in cache.layers)  # a token
    tokens = cache.get_seq_length() + longest - opening
    return rows * dtype.itemsize * (numbers * tokens + (opening + 1) * decoder.get_output_embeddings().weight.shape[0])


def visual_tokens(vlm: nn.Module, features: tuple[int, int]) -> int:
    """-> tokens that an image becomes"""
    for part in vlm.projector.modules():
        if isinstance(part, Queries):  # not run here: with a question it looks at its mask, which has no numbers in a plan
            return part.shape[0]
    weight = next(vlm.projector.parameters())
    with torch.no_grad():
        return vlm.projector(torch.zeros(1, *features, device=weight.device, dtype=weight.dtype)).shape[1]


def saved_bytes(vlm: nn.Module, inputs: Tensor) -> int:
    """-> bytes that the decoder keeps for the backward pass of inputs [B, L, E] on the meta device; no parameter among them"""
    own = {p.untyped_storage()._cdata for p in vlm.parameters()}
    found: dict[int, Any] = {}

    def keep(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage._cdata not in own:
            found[storage._cdata] = storage
        return value

    with _attention_of_kernels(), torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        vlm.read(inputs)
    return sum(storage.nbytes() for storage in found.values())


class _Kernel(torch.autograd.Function):
    """Attention as fused kernels do it: no matrix of weights is kept."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, output)
        return output


@contextlib.contextmanager
def _attention_of_kernels() -> Iterator[None]:
    """Without weights PyTorch takes another way than with them, and transformers looks for packed rows: put in their place what is."""
    from transformers import masking_utils

    plain = nn.functional.scaled_dot_product_attention, masking_utils.find_packed_sequence_indices
    nn.functional.scaled_dot_product_attention = lambda query, key, value, *_, **__: _Kernel.apply(query, key, value)
    masking_utils.find_packed_sequence_indices = lambda position_ids: None
    try:
        yield
    finally:
        nn.functional.scaled_dot_product_attention, masking_utils.find_packed_sequence_indices = plain


def device_memory(accelerator: Accelerator) -> float:
    """-> bytes that a process has: its GPU's, or its share of main memory"""
    if accelerator.device.type == "cuda":
        return torch.cuda.get_device_properties(accelerator.device).total_memory
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / local


def describe(parts: dict[str, float], how: Layout, memory: float) -> str:
    """-> a line of the plan"""
    total = sum(parts.values())
    said = ", ".join(f"{name} {size / GIB:.2f}" for name, size in parts.items() if size)
    away = " and ".join(part for part, off in (("weights", how.weights_off), ("optimizer", how.optimizer_off)) if off)
    where = f"{how.kind} x {how.world}" + (f", {away} in main memory" if away else "")
    return f"device   {total / GIB:.2f} GiB of {memory / GIB:.0f} GiB on each ({where}): {said}"


def too_large(parts: dict[str, float], memory: float) -> str | None:
    """-> one sentence where it does not fit"""
    total = sum(parts.values())
    if total <= memory:
        return None
    return f"a device would need {total / GIB:.1f} GiB and has {memory / GIB:.1f} GiB: {REMEDY}"


def steps(options: Any, rows: int, exemplars: int) -> int:
    """-> optimizer steps of a task, where each exemplar is seen `replay` times an epoch"""
    return options.epochs * math.ceil((rows + options.replay * exemplars) / options.batch_size)


REMEDY = (
    "lower method.batch_size, raise method.accumulate, launch on more GPUs with launch/zero3.yaml, or with launch/zero3_offload.yaml, "
    "which keeps weights in main memory"
)
