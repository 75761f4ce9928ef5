"""Names as answers: what an answer that is a name means, and, before anything is trained, whether a rule can tell all names apart.

Shapes: B batch, C classes.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from data.errors import InputError
from methods.gmm.match import TextEncoder, exact, normalised
from methods.gmm.prompt import Prompt, read_answer, spoken

SURE = 2.0  # above every cosine
TIE = 1e-5  # cosines that differ by less do not tell two names apart


def nearest(encoder: TextEncoder, words: list[str], names: list[str]) -> Tensor:
    """words of B answers, names of C classes -> [B, C]: cosines; SURE for a class whose very name was answered

    Which the encoder may not see: it may know neither of two names. Of names alike but for case and punctuation, the one as written counts.
    """
    scores, said = encoder.nearest(words, names), exact(words, names) == 0
    literal = torch.tensor([[spoken(word) == spoken(name) for name in names] for word in words])
    return scores.masked_fill(torch.where(literal.any(1, keepdim=True), literal, said), SURE)


def check_names(names: Sequence[str], options: Any, prompt: Prompt, encoder: TextEncoder | None) -> None:
    """options: a `methods.config.GMM`; encoder: of method.scoring=nearest, None for the other rules

    Errors: InputError that names classes which the decoder, the text encoder or the rule cannot tell apart, or has no room to answer.
    """
    names = list(names)
    prompt.check(names)
    tokens = [prompt.answer_tokens(name) for name in names]
    _refuse(_alike([tuple(one) for one in tokens]), names, "are the same words to the decoder", "rename one of each")
    if options.scoring == "likelihood":
        return
    longest = max(range(len(names)), key=lambda row: len(tokens[row]))
    if len(tokens[longest]) - 1 > options.max_new_tokens:
        raise InputError(
            f"class '{names[longest]}' takes {len(tokens[longest]) - 1} tokens to answer where method.max_new_tokens="
            f"{options.max_new_tokens}, so that it never could be: set method.max_new_tokens={len(tokens[longest]) - 1} or more"
        )
    other = "rename one of each, or set method.scoring=likelihood"
    read = [read_answer(prompt.decode(one), options.answer)[0] for one in tokens]
    if options.scoring == "exact":
        plain = [normalised(spoken(name)) for name in names]
        _refuse(_alike(plain), names, "are one name to method.scoring=exact, which passes over case and punctuation", other)
        empty = next((name for name, one in zip(names, plain, strict=True) if not one), None)
        if empty is not None:
            raise InputError(f"class '{empty}' is punctuation alone, which method.scoring=exact passes over: rename it")
        _refuse_lost(names, [(row, name) for row, name in enumerate(map(normalised, read)) if name != plain[row]])
    else:
        what = f"are the same to the text encoder, method.text_encoder={options.text_encoder}"
        if any(one.is_meta for one in encoder.model.parameters()):  # a plan has no weights to ask
            close = _alike([encoder.tokens(spoken(name)) for name in names])
        else:
            close = (encoder.nearest([spoken(name) for name in names], names) > 1 - TIE).triu(1).nonzero().tolist()
        _refuse(close, names, what, f"{other}, or another method.text_encoder")
        odd = [row for row, name in enumerate(names) if read[row] != spoken(name)]
        if odd and not any(one.is_meta for one in encoder.model.parameters()):
            taken = nearest(encoder, [read[row] for row in odd], names).argmax(1).tolist()
            _refuse_lost(names, [(row, read[row]) for row, other in zip(odd, taken, strict=True) if other != row])


def _alike(values: Sequence[Any]) -> list[list[int]]:
    """-> the pairs of rows with equal values, the first of each with every other"""
    first: dict[Any, int] = {}
    return [[first[value], row] for row, value in enumerate(values) if first.setdefault(value, row) != row]


def _refuse_lost(names: list[str], lost: list[tuple[int, str]]) -> None:
    """lost: classes, and as what an answer that is their name is read. Errors: InputError for the first of them"""
    if lost:
        row, name = lost[0]
        raise InputError(
            f"the decoder would answer class '{names[row]}' as '{name}', which is another name: rename it, or set method.scoring=likelihood"
        )


def _refuse(pairs: list[list[int]], names: Sequence[str], what: str, remedy: str) -> None:
    if pairs:
        said = ", ".join(f"'{names[one]}' and '{names[other]}'" for one, other in pairs[:3])
        raise InputError(
            f"{'the class names' if len(pairs) <= 3 else f'{len(pairs)} pairs of class names, such as'} {said} {what}: {remedy}"
        )
