"""Names that a rule cannot tell apart are named before training, and the remedy that is offered is taken by the same check."""

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from data.errors import InputError
from methods.config import GMM
from methods.gmm.match import packaged_text_encoder
from methods.gmm.names import SURE, check_names, nearest
from methods.gmm.prompt import Prompt

ANIMALS = ["\u732b", "\u72d7"]  # cat, dog: packaged MiniLM's vocabulary has neither


class Bytes:
    """A tokenizer that knows every text: its bytes, and an end token. Oracle-like: two texts are equal where their bytes are."""

    bos_token, eos_token_id, unk_token_id, bos_token_id = "", 256, None, None
    added_tokens_decoder, all_special_ids = {}, [256]

    def __call__(self, text: str, **_) -> SimpleNamespace:
        return SimpleNamespace(input_ids=list(text.encode()))

    def convert_ids_to_tokens(self, token: int) -> str:
        return chr(token)

    def decode(self, tokens: list[int], **_) -> str:
        return bytes(tokens).decode(errors="replace")


class Capitals(Bytes):
    """One that knows no lower case."""

    def __call__(self, text: str, **_) -> SimpleNamespace:
        return SimpleNamespace(input_ids=list(text.upper().encode()))


class Latin(Bytes):
    """One that passes over letters it does not know."""

    def __call__(self, text: str, **_) -> SimpleNamespace:
        return SimpleNamespace(input_ids=[one for one in text.encode() if one < 128])


@pytest.fixture(scope="module")
def minilm():
    return packaged_text_encoder()


def check(names, tokenizer=Bytes, encoder=None, **options) -> None:
    options = replace(GMM(), max_new_tokens=200, **options) if "max_new_tokens" not in options else replace(GMM(), **options)
    prompt = Prompt(tokenizer(), "", options.question, options.answer)
    check_names(tuple(names), options, prompt, encoder if options.scoring == "nearest" else None)


def test_names_that_the_text_encoder_does_not_know(minilm):
    with pytest.raises(InputError, match="'\u732b' and '\u72d7' are the same to the text encoder, method.text_encoder=minilm: rename one"):
        check(ANIMALS, encoder=minilm)
    check(ANIMALS, scoring="likelihood")
    check(["cat", "dog"], encoder=minilm)


def test_names_that_the_text_encoder_writes_alike(minilm):
    """The packaged one is uncased."""
    with pytest.raises(InputError, match="'Crane' and 'crane' are the same to the text encoder"):
        check(["Crane", "crane", "wren"], encoder=minilm)


@pytest.mark.parametrize(
    ("names", "lost", "answer"),
    [
        (["C", "C#", "cat"], "class 'C#' as 'C'", "This is a photo of a {}."),
        (["net", ".net"], "class '.net' as 'net'", "{}."),
    ],
)
def test_a_name_that_is_read_as_another_one_is_refused(minilm, names, lost, answer):
    """A decoder that is always right would score 0 % on it."""
    with pytest.raises(InputError, match=f"would answer {re.escape(lost)}"):
        check(names, encoder=minilm, answer=answer)


def test_many_pairs_are_counted(minilm):
    with pytest.raises(InputError, match="6 pairs of class names, such as"):
        check(["\u732b", "\u72d7", "\u9ce5", "\u9b5a"], encoder=minilm)


@pytest.mark.parametrize("names", [["Hermit crab", "hermit-crab!"], ["the wall", "wall"], ["C", "C++"]])
def test_names_that_exact_takes_for_one(names):
    with pytest.raises(InputError, match="are one name to method.scoring=exact.*set method.scoring=likelihood"):
        check(names, scoring="exact")
    check(names, scoring="likelihood")


def test_a_name_of_punctuation_alone():
    with pytest.raises(InputError, match="class '!!' is punctuation alone"):
        check(["!!", "x"], scoring="exact")


@pytest.mark.parametrize("scoring", ["exact", "likelihood", "nearest"])
def test_names_that_the_decoder_writes_alike(scoring, minilm):
    with pytest.raises(InputError, match="'Ant' and 'ANT' are the same words to the decoder: rename one of each"):
        check(["Ant", "ANT", "bee"], Capitals, minilm, scoring=scoring)
    with pytest.raises(InputError, match="are the same words to the decoder"):
        check(ANIMALS, Latin, minilm, scoring=scoring)


def test_a_name_that_the_decoder_cannot_write():
    with pytest.raises(InputError, match="would answer class 'm\u00fcll' as 'mll', which is another name"):
        check(["m\u00fcll", "ant"], Latin, scoring="exact")
    check(["m\u00fcll", "ant"], Latin, scoring="likelihood")


@pytest.mark.parametrize("scoring", ["exact", "nearest"])
def test_a_name_longer_than_an_answer(scoring, minilm):
    length = len(" This is a photo of a hippopotamus.")
    with pytest.raises(InputError, match=f"'hippopotamus' takes {length} tokens .* set method.max_new_tokens={length} or more"):
        check(["ant", "hippopotamus"], encoder=minilm, scoring=scoring, max_new_tokens=length - 1)
    check(["ant", "hippopotamus"], encoder=minilm, scoring=scoring, max_new_tokens=length)
    check(["ant", "hippopotamus"], scoring="likelihood", max_new_tokens=3)  # which generates nothing


def test_an_answer_that_is_a_name_means_that_class(minilm):
    names = ["\u732b", "\u72d7", "Crane", "crane", "hermit_crab"]
    answers = ["\u72d7", "crane", "Crane", "Hermit Crab", "a lobster"]
    scores = nearest(minilm, answers, names)
    assert scores[:4].argmax(1).tolist() == [1, 3, 2, 4]
    assert (scores[:4].max(1).values == SURE).all()
    torch.testing.assert_close(scores[4:], minilm.nearest(["a lobster"], names))
