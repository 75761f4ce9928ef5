"""What the decoder reads around an image, and how its answer is read.

The sequence is concat(bos, e, question, answer, eos) (GMM, section 3). The beginning-of-sequence tokens come *before* the
image: at position 0 the image would serve the decoder as attention sink and carry nothing. Shapes: B batch, A answer tokens.
"""

import math
import re
from functools import cache, cached_property
from itertools import takewhile

import torch
from torch import Tensor

from data.errors import InputError

# "This is a photo of", with the variants that decoders fall into
FORM = r"^\W*(?:this|it|that)?\s*(?:is|'s)?\s*(?:an?|the)?\s*(?:photo|picture|image)\s+of\s+"
ARTICLE = r"(?:(?:an?|the)\b)?"


def spoken(name: str) -> str:
    """-> a class name as words: underscores are spaces"""
    return " ".join(name.replace("_", " ").split())


@cache
def form(answer: str) -> tuple[re.Pattern, str]:
    """method.answer -> what stands before the place of [CLS], the paper's sentence with its variants, and the words after it"""
    before, _, after = answer.partition("{}")
    words = before.split()
    article = ARTICLE if words and words[-1].lower() in ("a", "an", "the") else ""
    words = words[:-1] if article else words
    said = FORM if re.fullmatch(FORM, f"{' '.join(words)} ", re.IGNORECASE) else r"^\s*" + r"\s+".join(map(re.escape, words)) + r"\s*"
    return re.compile(said + article, re.IGNORECASE), after.strip(" .#")


def read_answer(text: str, answer: str = "This is a photo of a {}.") -> tuple[str, bool]:
    """A generated sentence, method.answer -> the words in the place of [CLS], and whether it has the asked form.

    Without that form the whole text is returned, so that it can still be matched, and counted as invalid.
    """
    line, (pattern, after) = text.strip(), form(answer)
    found = pattern.match(line)
    words = (line[found.end() :] if found else line).strip().strip(".#").strip()
    ended = words.strip(" .#").lower().endswith(after.lower())
    if found and after and ended:
        words = words.strip(" .#")[: -len(after)].strip()
    return words or line, bool(found and ended and words)


def common_beginning(answers: list[list[int]], most: list[int]) -> int:
    """-> how many of the tokens `most` all answers begin with"""
    return min(len(list(takewhile(lambda pair: pair[0] == pair[1], zip(one, most, strict=False)))) for one in answers)


class Prompt:
    """The same template in training and at test.

    before: text before the image, {bos} in it is the tokenizer's first token; after: text that follows it, {} in it is the question;
    stop: text of the token that ends an answer, by default the first of `ends`, else the tokenizer's last one; lead: text before an answer;
    ends: tokens at any of which an answer ends, the first of which ends it in training; image: text of the token in whose place the image
    stands, where the model's own tokenizer knows one: the prompt is then tokenized as a whole, as the model's own processor does it;
    words: how many tokens the decoder knows. Errors: InputError
    """

    def __init__(
        self,
        tokenizer,
        before: str,
        question: str,
        answer: str,
        after: str = " {}",
        stop: str | None = None,
        *,
        lead: str = " ",
        ends: tuple[int, ...] = (),
        image: str | None = None,
        words: int | None = None,
    ):
        if answer.count("{}") != 1:
            raise InputError(f"method.answer='{answer}' must hold {{}} once, in the place of the class name")
        if after.count("{}") != 1:
            raise InputError(f"method.after='{after}' must hold {{}} once, in the place of the question")
        if found := re.search(r"\{\w*\}", before.replace("{bos}", "")):
            raise InputError(f"the text before the image, '{before}', holds {found[0]}, where {{bos}} alone is filled in: take it out")
        self.tokenizer, self.answer, self.lead, self.words = tokenizer, answer, lead, words
        first = tokenizer("x", add_special_tokens=False).input_ids[0]
        self.adds_space = tokenizer.convert_ids_to_tokens(first).startswith("▁")  # it puts a space before every text itself
        self.ends = self._ends(stop, ends)
        self.eos = self.ends[0]
        before, after = before.replace("{bos}", tokenizer.bos_token or ""), after.replace("{}", question)
        if image is None:
            self.before = self.encode(before)  # [.], bos and what else opens a turn
            self.question = self.encode(after)  # [.], follows the image
        else:
            self.before, self.question = self._around(before, after, image)

    def _ends(self, stop: str | None, ends: tuple[int, ...]) -> tuple[int, ...]:
        if stop is not None:
            return (self.one_token(stop),)
        last = self.tokenizer.eos_token_id
        named = tuple(ends) or (() if last is None else (last,))
        known = tuple(one for one in named if isinstance(one, int) and 0 <= one < (self.words or math.inf))
        if not known:
            none = f" but {', '.join(map(str, named))}, which is none of its {self.words} words" if named else ""
            raise InputError(f"the decoder says no token that ends an answer{none}: set method.stop to the text of one token, '.' say")
        return known

    def _around(self, before: str, after: str, image: str) -> tuple[Tensor, Tensor]:
        """-> the tokens on both sides of the image's, with those that the tokenizer itself puts around a text, but not twice"""
        text, bos, token = before + image + after, self.tokenizer.bos_token, self.tokenizer.convert_tokens_to_ids(image)
        ids = self.tokenizer(text, add_special_tokens=not (bos and text.startswith(bos))).input_ids
        if ids.count(token) != 1:
            raise InputError(
                f"the tokenizer reads {image} {ids.count(token)} times in '{text}', where the image stands once: leave it out of "
                "method.before and method.after, or put the model's own tokenizer into its folder"
            )
        at = ids.index(token)
        return self._known(ids[:at], text), self._known(ids[at + 1 :], text)

    def _known(self, ids: list[int], text: str) -> Tensor:
        if self.words is not None and ids and max(ids) >= self.words:
            raise InputError(
                f"the tokenizer says {max(ids)} for a word of '{text}' where the decoder has {self.words} words: "
                "put the tokenizer of the decoder into its folder, or name the class or the prompt otherwise"
            )
        return torch.tensor(ids, dtype=torch.int64)

    def encode(self, text: str) -> Tensor:
        text = text[1:] if self.adds_space and text.startswith(" ") else text
        return self._known(self.tokenizer(text, add_special_tokens=False).input_ids, text)

    def one_token(self, stop: str) -> int:
        tokens = self.encode(stop).tolist()
        if len(tokens) != 1:
            raise InputError(
                f"method.stop='{stop}' is {len(tokens)} tokens to this decoder and must be one: choose another, or leave it out for its own"
            )
        return tokens[0]

    def answer_tokens(self, name: str) -> list[int]:
        return [*self.encode(self.lead + self.answer.replace("{}", spoken(name))).tolist(), self.eos]

    def check(self, names: list[str]) -> None:
        """Errors: InputError for a class name that the tokenizer does not know, or reads as a token that is no word"""
        added = {token for token, said in self.tokenizer.added_tokens_decoder.items() if said.special}
        special = added.union(self.tokenizer.all_special_ids) - set(self.answer_tokens("zebra")[:-1])
        odd = next((name for name in names if special & {*self.answer_tokens(name)[:-1]} - {self.tokenizer.unk_token_id}), None)
        if odd is not None:
            raise InputError(f"the class name '{odd}' holds what the decoder's tokenizer reads as a token of its own: rename the class")
        unknown = self.tokenizer.unk_token_id
        if unknown is None or unknown == self.tokenizer.bos_token_id:
            return
        for name in names:
            if unknown in self.answer_tokens(name)[:-1]:
                raise InputError(
                    f"the decoder's tokenizer does not know all of the class name '{name}' ({self.tokenizer.unk_token}): "
                    "rename the class, or choose a decoder that does"
                )

    def said(self) -> dict[str, str]:
        """-> what a record says of it: the text around the image, and what ends an answer"""
        decode = self.tokenizer.decode
        return {"before": decode(self.before), "after": decode(self.question), "stop": [decode([token]) for token in self.ends]}

    @cached_property
    def opening(self) -> list[int]:
        """-> the tokens that every answer of the asked form begins with: the words before the name, as two unlike names have them"""
        words = self.encode((self.lead + self.answer.partition("{}")[0]).rstrip()).tolist()
        return words[: common_beginning([self.answer_tokens("zebra"), self.answer_tokens("1")], words)]

    @cached_property
    def ending(self) -> list[int]:
        """-> the tokens that answers to two unlike names end with, the last of them eos"""
        first, second = self.answer_tokens("zebra"), self.answer_tokens("1")
        return first[len(first) - common_beginning([second[::-1]], first[::-1]) :]

    def batch(self, answers: list[list[int]]) -> tuple[Tensor, Tensor]:
        """answers of B rows -> tokens int64 [B, A], filled up with eos on the right, and a mask bool [B, A] of the real ones"""
        lengths = [len(answer) for answer in answers]
        longest = max(lengths)
        tokens = torch.tensor([answer + [self.eos] * (longest - length) for answer, length in zip(answers, lengths, strict=True)])
        return tokens, torch.arange(longest) < torch.tensor(lengths)[:, None]

    def decode(self, tokens: list[int]) -> str:
        """-> the text up to the first end token"""
        end = next((at for at, token in enumerate(tokens) if token in self.ends), len(tokens))
        return self.tokenizer.decode(tokens[:end], skip_special_tokens=True).strip()
