"""What a generative model's own authors put around an image and its question, from its chat template and its generation settings."""

from pathlib import Path
from typing import Any, NamedTuple

from data.errors import InputError
from methods.networks.folders import read_json

# Settings of transformers' `generate` that change what is most likely, and their values where they do nothing.
PLAIN = {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "num_beams": 1, "min_length": 0, "min_new_tokens": 0}
PLAIN |= {"suppress_tokens": [], "begin_suppress_tokens": [], "bad_words_ids": [], "forced_bos_token_id": None, "sequence_bias": {}}
IMAGE, QUESTION, ANSWER = {"type": "image"}, "%question%", "%answer%"


class Template(NamedTuple):
    before: str  # text before the image
    after: str  # text after it; {} is the question
    lead: str = " "  # text before an answer
    tail: str = ""  # text after an answer


def chat_template(folder: Path, tokenizer: Any, said: str) -> str | None:
    """-> the template that transformers' own processor takes: of its files in its order, else the tokenizer's. Errors: InputError"""
    from transformers import ProcessorMixin

    try:
        found = ProcessorMixin.get_processor_dict(folder)[0].get("chat_template") or tokenizer.chat_template
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(_other(said, f"{type(error).__name__}: {error}")) from None
    if isinstance(found, dict) and "default" not in found:
        raise InputError(_other(said, f"{' and '.join(sorted(found))}, and none that is the default"))
    found = found["default"] if isinstance(found, dict) else found
    if found is not None and "strftime_now" in found:
        raise InputError(_other(said, "it tells the day's date, and every day would have numbers of its own"))
    return found


def published(folder: Path, tokenizer: Any, image: str, around: str, said: str) -> Template | None:
    """-> what the chat template makes of one image and one question; None where there is none

    image: text of the image's token; around: what the model's processor puts around it, {} is the token. Errors: InputError
    """
    template = chat_template(folder, tokenizer, said)
    if template is None:
        return None
    asked = {"role": "user", "content": [IMAGE, {"type": "text", "text": QUESTION}]}
    told = {"role": "assistant", "content": [{"type": "text", "text": ANSWER}]}
    from jinja2 import TemplateError

    try:
        text = tokenizer.apply_chat_template([asked], chat_template=template, tokenize=False, add_generation_prompt=True)
        whole = tokenizer.apply_chat_template([asked, told], chat_template=template, tokenize=False)
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        raise InputError(_other(said, f"{type(error).__name__}: {error}")) from None
    if text.count(image) != 1 or text.count(QUESTION) != 1 or not text.index(image) < text.index(QUESTION):
        raise InputError(_other(said, "it does not put one image before one question"))
    before, after = text.split(image)
    left, right = around.split("{}")
    if not whole.startswith(text) or whole.count(ANSWER) != 1:
        return Template(before + left, right + after.replace(QUESTION, "{}"))
    lead, tail = whole[len(text) :].split(ANSWER)
    return Template(before + left, right + after.replace(QUESTION, "{}"), lead, tail)


def _other(said: str, why: str) -> str:
    return (
        f"{said} has a chat template that is not understood here ({why}): say its text around the image in method.before and method.after"
    )


def end_tokens(folder: Path, tokenizer: Any, config: Any, tail: str = "") -> tuple[int, ...]:
    """-> the tokens at which the model's own `generate` ends an answer; first the one that ends it in its template, or the tokenizer's last

    Where neither generation settings nor configuration name any, the tokenizer's last one, and none where it has none.
    """
    found = _settings(folder).get("eos_token_id")
    found = found if found is not None else getattr(config, "eos_token_id", None)
    found = found if found is not None else tokenizer.eos_token_id
    ends = [] if found is None else list(found) if isinstance(found, (list, tuple)) else [found]
    after = tokenizer(tail, add_special_tokens=False).input_ids[:1] if tail.strip() else []
    first = [token for token in (*after, tokenizer.eos_token_id) if token in ends][:1]
    return tuple(dict.fromkeys([*first, *ends]))


def unlike_published(folder: Path) -> str:
    """-> in words, which generation settings of a folder's would change the greedy answers that are given here; "" where none"""
    settings = _settings(folder)
    beside = [f"{key}={settings[key]}" for key, plain in PLAIN.items() if settings.get(key) not in (None, plain)]
    return f"greedy answers, without {', '.join(beside)}" if beside else ""


def _settings(folder: Path) -> dict[str, Any]:
    """-> a folder's settings of `generate`. Errors: InputError"""
    file = folder / "generation_config.json"
    return read_json(file) if file.is_file() else {}
