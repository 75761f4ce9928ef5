"""What the decoder reads around an image, and how its answer is read.

The sequence is concat(bos, e, question, answer, eos) (GMM, section 3). The beginning-of-sequence tokens come *before* the
image: at position 0 the image would serve the decoder as attention sink and carry nothing. Shapes: B batch, A answer tokens.
"""

import re
from functools import cached_property
from itertools import takewhile

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


def common_beginning(answers: list[list[int]], most: list[int]) -> int:
    """-> how many of the tokens `most` all answers begin with"""
    return min(len(list(takewhile(lambda pair: pair[0] == pair[1], zip(one, most, strict=False)))) for one in answers)


class Prompt:
    """The same template in training and at test.

    before: text before the image, {bos} in it is the tokenizer's first token; after: text that follows it, {} in it is the question;
    stop: text of the token that ends an answer, by default the tokenizer's last one. Errors: InputError
    """

    def __init__(self, tokenizer, before: str, question: str, answer: str, after: str = " {}", stop: str | None = None):
        if answer.count("{}") != 1:
            raise InputError(f"method.answer='{answer}' must hold {{}} once, in the place of the class name")
        if after.count("{}") != 1:
            raise InputError(f"method.after='{after}' must hold {{}} once, in the place of the question")
        self.tokenizer, self.answer = tokenizer, answer
        first = tokenizer("x", add_special_tokens=False).input_ids[0]
        self.adds_space = tokenizer.convert_ids_to_tokens(first).startswith("▁")  # it puts a space before every text itself
        self.eos = tokenizer.eos_token_id if stop is None else self.one_token(stop)
        self.before = self.encode(before.replace("{bos}", tokenizer.bos_token or ""))  # [.], bos and what else opens a turn
        self.question = self.encode(after.format(question))  # [.], follows the image

    def encode(self, text: str) -> Tensor:
        text = text[1:] if self.adds_space and text.startswith(" ") else text
        return torch.tensor(self.tokenizer(text, add_special_tokens=False).input_ids, dtype=torch.int64)

    def one_token(self, stop: str) -> int:
        tokens = self.encode(stop).tolist()
        if len(tokens) != 1:
            raise InputError(f"method.stop='{stop}' is {len(tokens)} tokens to this decoder and must be one: choose another, or null")
        return tokens[0]

    def answer_tokens(self, name: str) -> list[int]:
        return [*self.encode(f" {self.answer.format(spoken(name))}").tolist(), self.eos]

    @cached_property
    def opening(self) -> list[int]:
        """-> the tokens that every answer of the asked form begins with: the words before the name, as two unlike names have them"""
        words = self.encode(f" {self.answer.partition('{}')[0]}".rstrip()).tolist()
        return words[: common_beginning([self.answer_tokens("zebra"), self.answer_tokens("1")], words)]

    @cached_property
    def ending(self) -> list[int]:
        """-> the tokens that answers to two unlike names end with, the last of them eos"""
        first, second = self.answer_tokens("zebra"), self.answer_tokens("1")
        return first[len(first) - common_beginning([second[::-1]], first[::-1]) :]

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
