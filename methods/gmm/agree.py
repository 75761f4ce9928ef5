"""Does a decoder say here what it says in transformers? Asked once, of a few words, before anything is trained.

Architectures differ in what they do with embeddings, positions, masks and the past; one that is read in another way would give other
numbers, and no error. Shapes: B batch, L tokens.
"""

import math
from typing import Any

import torch
from torch import Tensor

from data.errors import InputError
from methods.gmm.vlm import VLM
from methods.learning.sharding import no_gradient

RAISED = (ValueError, TypeError, LookupError, AttributeError, RuntimeError, NotImplementedError)
# Mean difference of logits, as a share of their spread, that rounding may make: what is read otherwise differs by more.
ROUNDING = {torch.float32: 1e-3}
HALF = 0.1


def check_agreement(vlm: VLM, tokens: int, likelihood: bool, said: str) -> None:
    """Called on every process. tokens: as many as an image has; likelihood: names are read as a tree.

    Errors: InputError for a decoder that is read otherwise here than by its own library
    """
    asked = torch.cat([vlm.prompt.question, torch.tensor(vlm.prompt.answer_tokens("zebra"))])
    ids = torch.cat([asked.repeat(tokens // len(asked) + 1)[:tokens], asked])
    length, window = len(vlm.prompt.before) + len(ids), _looks_back(vlm)
    if length > window:
        raise InputError(
            f"{said} looks back at {window} tokens in some layers, fewer than image, question and answer have ({length}): set "
            "method.visual_tokens=1, or name another model"
        )
    device = vlm.decoder.get_input_embeddings().weight.device
    try:
        with no_gradient():
            apart = vlm(ids.to(device).expand(2, -1), work=_apart(vlm, likelihood))
    except (torch.OutOfMemoryError, InputError):
        raise  # these say what they are
    except RAISED as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".:")
        raise InputError(f"{said} is of an architecture that cannot be used here ({first}): name another model") from None
    most = ROUNDING.get(next(vlm.decoder.parameters()).dtype, HALF)
    wrong = [what for what, share in apart.items() if not share < most]
    if wrong:
        raise InputError(
            f"{said} is of an architecture that cannot be used here (it says something else {wrong[0]} than in transformers): name another "
            "model"
        )


def _looks_back(vlm: VLM) -> float:
    """-> how many tokens its layers see, at least"""
    from transformers import DynamicCache

    windows = [getattr(layer, "sliding_window", None) for layer in DynamicCache(config=vlm.decoder.config).layers]
    return min(filter(None, windows), default=math.inf)


def _apart(vlm: VLM, likelihood: bool) -> Any:
    """-> ids [B, L] -> how far logits lie from those that the decoder gives of all words at once, by what was done"""
    decoder, words = vlm.decoder, vlm.decoder.get_input_embeddings()

    def read(ids: Tensor, **past: Any) -> Any:
        return decoder(input_ids=ids, **{"use_cache": False, **past}).logits

    def after(ids: Tensor) -> Any:
        cache = vlm._cache(len(ids))
        decoder.base_model(inputs_embeds=words(ids), past_key_values=cache, use_cache=True)
        return cache

    def work(ids: Tensor) -> dict[str, float]:
        before = vlm.prompt.before.to(ids.device).expand(len(ids), -1)
        whole = read(torch.cat([before, ids], 1)).float()
        length, start, other = whole.shape[1], before.shape[1], ids[:, :1]
        found = {"of the words before the last": (read(torch.cat([before, ids[:, :-1]], 1)).float(), whole[:, :-1])}
        hidden = vlm.read(words(ids))[:, -ids.shape[1] :]
        found["when it is given embeddings"] = (decoder.get_output_embeddings()(hidden).float(), whole[:, start:])
        mask = torch.ones(len(ids), length + 1, dtype=torch.bool, device=ids.device)
        mask[:, -2] = False  # a word that was given in vain
        cache, place = after(torch.cat([ids[:, :-1], other], 1)), torch.full_like(other, length - 1)
        given = {"attention_mask": mask, "position_ids": place, "past_key_values": cache, "use_cache": True}
        found["word by word"] = (read(ids[:, -1:], **given).float(), whole[:, -1:])
        if likelihood:
            cache, seen = after(ids[:, :-2]), torch.ones(3, length + 1, dtype=torch.bool, device=ids.device).tril(length - 2)
            seen[2, -2] = False  # two words that go on from one place, and what follows the first of them
            nodes = words(torch.cat([ids[0, -2:-1], other[0], ids[0, -1:]])).expand(len(ids), -1, -1)
            mask = torch.zeros(seen.shape, dtype=nodes.dtype, device=ids.device).masked_fill(~seen, torch.finfo(nodes.dtype).min)
            place = (length - 2 + torch.tensor([0, 0, 1], device=ids.device)).expand(len(ids), -1)
            given = {"attention_mask": mask.expand(len(ids), 1, -1, -1), "position_ids": place, "past_key_values": cache, "use_cache": True}
            last = decoder.base_model(inputs_embeds=nodes, **given).last_hidden_state[:, -1:]
            found["where several words may follow"] = (decoder.get_output_embeddings()(last).float(), whole[:, -1:])
        return {what: ((ours - theirs).abs().mean() / theirs.std()).item() for what, (ours, theirs) in found.items()}

    return work
