"""What the decoder reads around an image, and how its answer is read.

The sequence is concat(bos, e, question, answer, eos) (GMM, section 3). The beginning-of-sequence tokens come *before* the
image: at position 0 the image would serve the decoder as attention sink and carry nothing. Shapes: B batch, A answer tokens.
"""

import re
from functools import cached_property

import torch
from torch import Tensor

from data.errors import InputError

# "This is a photo of a", with the variants that decoders fall into; what follows stands in the place of [CLS]
FORM = re.compile(r"^\W*(?:this|it|that)?\s*(?:is|'s)?\s*(?:an?|the)?\s*(?:photo|picture|image)\s+of\s+(?:(?:an?|the)\b)?", re.IGNORECASE)


def spoken(name: str) -> str:
    """-> a class name as words: underscores are spaces"""
    return " ".join(name.replace("_", " ").split())


def read_answer(text: str) -> tuple[str, bool]:
    """A generated sentence -> the words in the place of [CLS], and whether it has the asked form.

    Without that form the whole text is returned, so that it can still be matched, and counted as invalid.
    """
    line = text.strip()
    found = FORM.match(line)
    words = (line[found.end() :] if found else line).strip().strip(".#").strip()
    return words or line, bool(found and words)


class Prompt:
    """The same template in training and at test."""

    def __init__(self, tokenizer, before: str, question: str, answer: str):
        if answer.count("{}") != 1:
            raise InputError(f"method.answer='{answer}' must hold {{}} once, in the place of the class name")
        self.tokenizer, self.answer, self.eos = tokenizer, answer, tokenizer.eos_token_id
        self.before = self.encode(before)  # [.], bos and what else opens a turn
        self.question = self.encode(f" {question}")  # [.], follows the image

    def encode(self, text: str) -> Tensor:
        return torch.tensor(self.tokenizer(text, add_special_tokens=False).input_ids, dtype=torch.int64)

    def answer_tokens(self, name: str) -> list[int]:
        return [*self.encode(f" {self.answer.format(spoken(name))}").tolist(), self.eos]

    @cached_property
    def opening(self) -> list[int]:
        """-> the tokens that every answer of the asked form begins with: what answers to two unlike names share"""
        first, second = self.answer_tokens("zebra"), self.answer_tokens("1")
        shared = next(i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
        return first[:shared]

    def batch(self, answers: list[list[int]]) -> tuple[Tensor, Tensor]:
        """answers of B rows -> tokens int64 [B, A], filled up with eos on the right, and a mask bool [B, A] of the real ones"""
        longest = max(map(len, answers))
        tokens = torch.tensor([answer + [self.eos] * (longest - len(answer)) for answer in answers])
        mask = torch.tensor([[i < len(answer) for i in range(longest)] for answer in answers])
        return tokens, mask

    def decode(self, tokens: list[int]) -> str:
        """-> the text up to the end token"""
        end = tokens.index(self.eos) if self.eos in tokens else len(tokens)
        return self.tokenizer.decode(tokens[:end], skip_special_tokens=True).strip()
