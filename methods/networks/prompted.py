"""A frozen vision transformer of timm, read with prompts: prefixes of the attention's keys and values, or tokens before the others.

Each image chooses its own prompts, by its query: what the network says of it without any. Prompts that a whole batch chooses, as in some
releases, tell the task at test time; they are not offered. Shapes: B batch, N tokens, D features, P tokens of a prompt, C classes.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from data.errors import InputError
from methods.config import Prompting
from methods.networks.classifier import Classifier


class Prompts(NamedTuple):
    """What a pool gives for the queries [B, D] of a batch."""

    prefixes: dict[int, tuple[Tensor, Tensor]]  # block -> keys and values [B, P, D] before its own
    tokens: Tensor | None  # [B, P, D], before the class token; their mean is then what the head reads
    match: Tensor  # [B], how near the chosen keys are to the queries


def attend(attention: nn.Module, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """timm's attention with a prefix: softmax(q [p_K; k]^T / sqrt(d)) [p_V; v], the prefix after the projections.

    x: [B, N, D]; keys, values: [B, P, D] -> [B, N, D]
    """
    heads = attention.num_heads
    q, k, v = attention.qkv(x).unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)  # [B, heads, N, d] each
    k, v = (torch.cat([p.unflatten(2, (heads, -1)).transpose(1, 2).to(own.dtype), own], 2) for p, own in ((keys, k), (values, v)))
    return attention.proj(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def check_transformer(name: str, vit: nn.Module) -> None:
    """Errors: InputError for a network whose blocks are not timm's plain ones with a class token."""
    from timm.models.vision_transformer import Attention, Block, VisionTransformer

    plain = type(vit) is VisionTransformer and vit.global_pool == "token" and vit.num_prefix_tokens == 1
    blocks = vit.blocks if plain else ()
    plain = plain and all(type(block) is Block and type(block.attn) is Attention for block in blocks)
    bare = (nn.Identity,) * 3
    if not plain or any((type(b.attn.q_norm), type(b.attn.k_norm), type(b.attn.norm)) != bare or b.attn.gate is not None for b in blocks):
        raise InputError(f"method.backbone={name} cannot be prompted: name a plain vision transformer with a class token, as timm:NAME")


class Prompted(Classifier):
    """pool: queries [B, D] -> Prompts; None reads the network as it is. Errors: InputError for another network than a plain ViT, and for
    options that would move what past tasks have learnt.
    """

    def __init__(self, options: Prompting):
        if not options.frozen:
            raise InputError("method.frozen=false would train what the prompts are made for: leave it true, or choose method=finetune")
        if options.head != "linear" or options.weight_decay:
            raise InputError(
                f"method.head={options.head} and method.weight_decay={options.weight_decay:g} would move the head's rows of past tasks, "
                "which stay as they are: leave them at linear and 0"
            )
        super().__init__(options)
        check_transformer(options.backbone, getattr(self.backbone, "module", self.backbone))
        self.pool: nn.Module | None = None

    @torch.no_grad()
    def query(self, pixels: Tensor) -> Tensor:
        """-> the class token [B, D] of the network without prompts"""
        return self.backbone.pool(self.backbone.maps(pixels)).float()

    def read(self, pixels: Tensor, prompts: Prompts) -> Tensor:
        """-> features [B, D]: the class token, or the mean of the prompt's tokens where it has some"""
        vit = self.backbone.module
        x = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(pixels))))
        if prompts.tokens is not None:
            x = torch.cat([prompts.tokens.to(x.dtype), x], 1)
        for number, block in enumerate(vit.blocks):
            if number not in prompts.prefixes:
                x = block(x)
                continue
            x = x + block.ls1(attend(block.attn, block.norm1(x), *prompts.prefixes[number]))
            x = x + block.ls2(block.mlp(block.norm2(x)))
        x = vit.norm(x)
        return x[:, : prompts.tokens.shape[1]].mean(1) if prompts.tokens is not None else vit.forward_head(x, pre_logits=True)

    def forward(self, images: Tensor, with_match: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """uint8 or float [B, 3, H', W'] -> logits [B, C], and how near the chosen keys are [B] if asked"""
        pixels = self.pixels(images)
        query = self.query(pixels)
        if self.pool is None:
            return (self.head(query), query.new_zeros(len(query))) if with_match else self.head(query)
        prompts = self.pool(query)
        logits = self.head(self.read(pixels, prompts))
        return (logits, prompts.match) if with_match else logits
