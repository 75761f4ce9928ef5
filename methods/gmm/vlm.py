"""The generative model: frozen image features -> a projection, by default the only part that trains -> a causal decoder.

Shapes: B batch, L visual tokens, D image features, E decoder width, A answer tokens, P prompt tokens, V vocabulary.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from data.errors import InputError
from methods.gmm.numerics import as_held
from methods.gmm.prompt import Prompt
from methods.learning.sharding import anywhere, no_gradient, of_whole

# On a CPU a matrix product of two or three rows takes longer than one of four: the last open answers are repeated up to four.
FEWEST_ROWS = 4


class VLM(nn.Module):
    """concat(bos, e, question, answer, eos) through a frozen decoder, e = the projected image features.

    projector: [B, L, D] -> [B, L', E]; where none is given, a new linear layer takes the `features` D. `methods.gmm.tuning` says what
    else may train, and sets the two switches.
    """

    def __init__(self, decoder: nn.Module, prompt: Prompt, features: int, weights: dict[str, str], projector: nn.Module | None = None):
        super().__init__()
        self.decoder = decoder.eval().requires_grad_(False)
        self.prompt, self.weights = prompt, weights
        self.projector = projector if projector is not None else linear_projector(features, decoder.get_input_embeddings())
        self.made_of: dict[str, Any] = {}  # what a record says of its models
        self.tuned = False  # the decoder trains, too: what comes before the image is computed each time
        self.recompute = False  # gradient checkpointing, which knows no key-value cache
        self._before: list[tuple[Tensor, Tensor]] | None = None

    def train(self, mode: bool = True) -> "VLM":
        """All stays in eval mode: what is frozen needs it, and draws of dropout would depend on the number of processes."""
        super().train(mode)
        self.decoder.eval()
        self.projector.eval()
        if self.recompute:
            for layer in self.decoder.modules():  # the layers alone, for they recompute in training mode only
                layer.training = mode and getattr(layer, "gradient_checkpointing", False)
        return self

    # What accelerate asks of a model that it lays out in shares: the layers that are gathered one at a time, and tied weights.
    @property
    def _no_split_modules(self) -> list[str]:
        there = {type(module).__name__ for module in self.modules()}  # Qwen-VL's names those of its vision tower, too
        return sorted(there & set(self.decoder._no_split_modules))

    def tie_weights(self) -> None:
        self.decoder.tie_weights()

    def forward(self, *given: Any, work: Callable[..., Any] | None = None) -> Any:
        """`losses` of what is given, or other `work` on it. Where the decoder lies in shares, only calls of the module gather them."""
        device = next(one.device for one in given if isinstance(one, Tensor))
        with as_held(device):
            return (work or self.losses)(*given)

    def losses(self, features: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Cross-entropy of the answers, a mean over the tokens of each row.

        features [B, L, D]; answer tokens int64 [B, A]; mask bool [B, A] -> [B]. The logits are computed for answer tokens only.
        The mean is per row, not over the batch's tokens, so that long names weigh no more and ranks can be averaged.
        """
        inputs = torch.cat([self._embed_prompt(features), self.decoder.get_input_embeddings()(tokens[:, :-1])], 1)
        hidden = self.read(inputs)
        logits = self.decoder.get_output_embeddings()(hidden[:, -tokens.shape[1] :][mask])  # [answer tokens, V]
        losses = cross_entropy(logits.float(), tokens[mask], reduction="none")
        per_row = torch.zeros(mask.shape, device=losses.device).masked_scatter(mask, losses)
        return per_row.sum(1) / mask.sum(1)

    def read(self, inputs: Tensor) -> Tensor:
        """image, question and answer as embeddings [B, L, E] -> the decoder's last states, of them and maybe of what comes before"""
        if self.tuned or self.recompute:
            before = self.decoder.get_input_embeddings()(self.prompt.before.to(inputs.device)).expand(len(inputs), -1, -1)
            return self.decoder.base_model(inputs_embeds=torch.cat([before, inputs], 1), use_cache=False).last_hidden_state
        cache = self._cache(len(inputs))
        return self.decoder.base_model(inputs_embeds=inputs, past_key_values=cache, use_cache=True).last_hidden_state

    def answer(self, features: Tensor, max_new_tokens: int) -> list[str]:
        """Greedy answers, each stopped at an end token. features [B, L, D] -> B texts

        The opening that nearly all answers share ("This is a photo of a") is given to the decoder at once. Each row keeps as
        much of it as the decoder chooses itself, token for token, and goes on from there with the decoder's own choice, so
        that the result is what token-by-token greedy decoding gives.
        """
        with no_gradient():
            return self(features, max_new_tokens, work=self._answer)

    def _answer(self, features: Tensor, max_new_tokens: int) -> list[str]:
        opening = torch.tensor(self.prompt.opening[: max_new_tokens - 1], dtype=torch.int64, device=features.device)  # [O]
        inputs = torch.cat([self._embed_prompt(features), self.decoder.get_input_embeddings()(opening).expand(len(features), -1, -1)], 1)
        cache = self._cache(len(features))
        hidden = self.decoder.base_model(inputs_embeds=inputs, past_key_values=cache, use_cache=True).last_hidden_state
        if not bool(hidden.isfinite().all()):
            raise InputError(
                "the decoder computes values that are no numbers from these images, though its weights were finite when they were read: "
                "lower method.lr or set method.clip; where nothing was trained, set method.dtype=float32 and precision=no"
            )
        last_hidden = hidden[:, -len(opening) - 1 :].flatten(0, 1)  # one matrix product, several times as fast as one for each row
        chosen = self.decoder.get_output_embeddings()(last_hidden).argmax(-1).unflatten(0, (len(hidden), -1))  # [B, O + 1]
        agreed = (chosen[:, :-1] == opening).cumprod(1).sum(1)  # [B], opening tokens kept
        answers = [opening[:kept].tolist() for kept in agreed.tolist()]
        alive, last = torch.arange(len(features), device=features.device), chosen.gather(1, agreed[:, None])[:, 0]
        length = cache.get_seq_length()
        position = length - len(opening) + agreed  # [B], where `last` stands
        mask = torch.arange(length, device=features.device) < position[:, None]  # [B, length], not what was given in vain
        ends = torch.tensor(self.prompt.ends, device=features.device)
        while True:
            for row, token in zip(alive.tolist(), last.tolist(), strict=False):
                answers[row].append(token)
            short = torch.tensor([len(answers[row]) < max_new_tokens for row in alive.tolist()], device=features.device)
            going = torch.isin(last[: len(alive)], ends, invert=True) & short
            if not anywhere(going.any()):
                return [self.prompt.decode(tokens) for tokens in answers]
            if not going.all():
                alive, kept = alive[going], torch.nonzero(going).flatten()
                kept = kept if len(kept) else kept.new_zeros(1)  # the decoder lies in shares, and another process still needs ours
                kept = torch.cat([kept, kept[:1].expand(max(0, FEWEST_ROWS - len(kept)))])
                cache.batch_select_indices(kept)
                last, position, mask = last[kept], position[kept], mask[kept]
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
            step = {"attention_mask": mask, "position_ids": position[:, None], "past_key_values": cache, "use_cache": True}
            last = self.decoder(input_ids=last[:, None], **step).logits[:, -1].argmax(-1)
            position = position + 1

    def _embed_prompt(self, features: Tensor) -> Tensor:
        """[B, L, D] -> e and question, [B, L + P, E]; what comes before the image lies in the cache"""
        image = self.projector(features.to(next(self.projector.parameters()).dtype))
        question = self.decoder.get_input_embeddings()(self.prompt.question.to(features.device))
        return torch.cat([image.to(question.dtype), question.expand(len(image), -1, -1)], 1)

    def _cache(self, batch: int):
        """-> a key-value cache of the tokens before the image, computed once where the decoder is frozen"""
        from transformers import DynamicCache

        if self._before is None or self.tuned:
            self._before = []
            if len(self.prompt.before):
                with torch.no_grad():
                    ids = self.prompt.before.to(self.decoder.get_input_embeddings().weight.device)[None]
                    layers = self.decoder.base_model(input_ids=ids, use_cache=True).past_key_values.layers
                    self._before = [(layer.keys, layer.values) for layer in layers]
        cache = DynamicCache(config=self.decoder.config)
        for number, (keys, values) in enumerate(self._before):
            cache.update(keys.expand(batch, -1, -1, -1), values.expand(batch, -1, -1, -1), number)
        return cache


def linear_projector(features: int, embeddings: nn.Embedding) -> nn.Linear:
    """-> the projection of an image's features into a decoder with these word embeddings, as it starts"""
    projector = nn.Linear(features, embeddings.embedding_dim)
    # An image of unit features starts out as long as a word: its outputs have the spread of the word embeddings, which some scale.
    spread = of_whole(embeddings.weight, lambda weight: weight.float().std().item()) * _scale(embeddings)
    nn.init.normal_(projector.weight, std=spread / math.sqrt(features))
    nn.init.zeros_(projector.bias)
    return projector


def _scale(embeddings: nn.Embedding) -> float:
    """-> what an architecture multiplies its words by as they are looked up: Gemma's"""
    return getattr(embeddings, "scalar_embed_scale", getattr(embeddings, "embed_scale", 1.0))


class Decoder(nn.Module):
    """The language model of an image-text model and its head, as the causal decoder that `VLM` takes."""

    def __init__(self, model: nn.Module, head: nn.Module):
        super().__init__()
        self.model, self.head, self.config = model, head, model.config
        self.tied = head.weight is model.get_input_embeddings().weight

    @property
    def base_model(self) -> nn.Module:
        return self.model

    @property
    def _no_split_modules(self) -> list[str]:
        return self.model._no_split_modules

    def tie_weights(self) -> None:
        if self.tied:
            self.head.weight = self.model.get_input_embeddings().weight

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(self, **given):
        """as transformers' own: token ids and a cache -> logits [B, tokens, V]"""
        from transformers.modeling_outputs import CausalLMOutputWithPast

        read = self.model(**given)
        return CausalLMOutputWithPast(logits=self.head(read.last_hidden_state), past_key_values=read.past_key_values)
