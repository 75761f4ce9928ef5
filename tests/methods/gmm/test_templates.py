"""Chat templates and end tokens in all the forms in which folders bring them. Oracle: transformers' own processor of the same folder."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import transformers

from data.errors import InputError
from methods.config import GMM
from methods.gmm.models import load_vlm
from methods.gmm.template import chat_template
from methods.gmm.tiny import tiny_folder
from methods.networks.folders import load_tokenizer

ASKED = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]}]


def text(mark: str) -> str:
    return mark + "<image>{{ messages[0]['content'][1]['text'] }}ASSISTANT:"


def as_jinja(folder: Path, mark: str = "jinja") -> None:
    (folder / "chat_template.jinja").write_text(text(mark))


def as_json(folder: Path, mark: str = "json") -> None:
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": text(mark)}))


def in_processor(folder: Path) -> None:
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": "LlavaProcessor", "chat_template": text("processor")}))


def in_tokenizer(folder: Path, value=None) -> None:
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": text("tokenizer") if value is None else value}))


def more_files(folder: Path) -> None:
    (folder / "additional_chat_templates").mkdir(exist_ok=True)
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text(text("tools"))


def named(folder: Path) -> None:
    in_tokenizer(folder, [{"name": "tool_use", "template": text("tools")}, {"name": "default", "template": text("default")}])


FORMS = [
    (as_jinja,),
    (as_json,),
    (in_processor,),
    (as_jinja, as_json),
    (as_json, in_processor),
    (as_jinja, in_tokenizer),
    (as_jinja, more_files),
    (as_json, in_tokenizer, in_processor),
]


@pytest.fixture
def folder(tmp_path):
    """-> a copy of the small LLaVA's folder, which has no template"""
    return Path(shutil.copytree(tiny_folder("llava"), tmp_path / "llava"))


def ours(folder: Path) -> dict:
    return load_vlm(GMM(vlm="hf", model=str(folder), visual_tokens=0))[1].prompt.said()


@pytest.mark.parametrize("forms", FORMS, ids=lambda forms: "+".join(form.__name__ for form in forms))
def test_the_template_is_the_one_that_the_processor_takes(forms, folder):
    for form in forms:
        form(folder)
    processor = transformers.LlavaProcessor.from_pretrained(folder)
    theirs = processor.apply_chat_template(ASKED, add_generation_prompt=True, tokenize=False)
    said = ours(folder)
    assert (
        said["before"] + "<image>" + said["after"] == "<s>" * (not theirs.startswith("<s>") and said["before"].startswith("<s>")) + theirs
    )


@pytest.mark.parametrize(("form", "mark"), [(in_tokenizer, "tokenizer"), (named, "default")])
def test_the_tokenizers_own_template(form, mark, folder):
    """Where the processor has none. Oracle: the tokenizer's apply_chat_template."""
    form(folder)
    theirs = load_tokenizer(folder, "x", "method.model").apply_chat_template(ASKED, add_generation_prompt=True, tokenize=False)
    said = ours(folder)
    assert theirs.startswith(mark) and said["before"] + "<image>" + said["after"] == theirs


def tools_alone(folder: Path) -> None:
    in_tokenizer(folder, [{"name": "rag", "template": text("rag")}, {"name": "tool_use", "template": text("tools")}])


def tool_file_alone(folder: Path) -> None:
    more_files(folder)


def torn(folder: Path) -> None:
    (folder / "chat_template.json").write_text("{")


def without_key(folder: Path) -> None:
    (folder / "chat_template.json").write_text("{}")


def with_the_date(folder: Path) -> None:
    as_jinja(folder, "{{ strftime_now('%d %b %Y') }}")


WRONG = [
    (tools_alone, "rag and tool_use, and none that is the default"),
    (tool_file_alone, "tool_use, and none that is the default"),
    (torn, "JSONDecodeError"),
    (without_key, "KeyError: 'chat_template'"),
    (with_the_date, "it tells the day's date, and every day would have numbers of its own"),
]


@pytest.mark.parametrize(("spoil", "why"), WRONG, ids=[spoil.__name__ for spoil, _ in WRONG])
def test_templates_that_are_not_understood(spoil, why, folder):
    spoil(folder)
    given = GMM(vlm="hf", model=str(folder), visual_tokens=0)
    with pytest.raises(InputError, match=f"is not understood here .{why}.*: say its text around the image in method.before"):
        load_vlm(given)
    said = load_vlm(replace(given, before="{bos}User:", after="{} Assistant:"))[1].prompt.said()
    assert (said["before"], said["after"]) == ("<s>User:", "What is this? Assistant:")


@pytest.mark.parametrize(("given", "count"), [({"before": "<image>"}, 2), ({"after": "{} <image><image>"}, 3)])
def test_an_image_token_in_the_prompts_text(given, count, folder):
    options = GMM(vlm="hf", model=str(folder), visual_tokens=0, **given)
    with pytest.raises(InputError, match=f"reads <image> {count} times in .*: leave it out of method.before and method.after"):
        load_vlm(options)
    load_vlm(replace(options, before=None, after=None))


def test_a_tokenizer_of_another_model(folder):
    """Its image token has another id."""
    words = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**words, "image_token_index": 300}))
    with pytest.raises(InputError, match="0 times in .*: .*put the model's own tokenizer into its folder"):
        ours(folder)
    (folder / "config.json").write_text(json.dumps(words))
    ours(folder)


ENDS = [([5, 2], (2, 5)), (5, (5,)), ([9999, 2], (2,)), (None, (2,)), ([], (2,)), ([5, 5], (5,))]


@pytest.mark.parametrize(("eos", "ends"), ENDS)
def test_end_tokens_of_the_settings(eos, ends, tmp_path):
    """The tokenizer's last token is 2. One that the decoder has no word for is never said."""
    folder = Path(shutil.copytree(tiny_folder("composed") / "decoder", tmp_path / "decoder"))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": eos}))
    assert composed(folder).prompt.ends == ends


def composed(folder, **given):
    options = {"vlm": "composed", "visual_tokens": 0, "encoder": f"hf:{tiny_folder('composed') / 'encoder'}", "decoder": str(folder)}
    return load_vlm(GMM(**options, **given))[1]


@pytest.mark.parametrize("eos", [9999, -1, "x"])
def test_end_tokens_that_the_decoder_has_not(eos, tmp_path):
    folder = Path(shutil.copytree(tiny_folder("composed") / "decoder", tmp_path / "decoder"))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": eos}))
    with pytest.raises(InputError, match=f"no token that ends an answer but {eos}, which is none of its 400 words: set method.stop to"):
        composed(folder)
    assert composed(folder, stop=".").prompt.said()["stop"] == ["."]


def test_settings_that_are_torn(tmp_path):
    folder = Path(shutil.copytree(tiny_folder("composed") / "decoder", tmp_path / "decoder"))
    whole = (folder / "generation_config.json").read_text()
    (folder / "generation_config.json").write_text(whole[:20])
    with pytest.raises(InputError, match="generation_config.json cannot be read: name a folder that save_pretrained has written"):
        composed(folder)
    (folder / "generation_config.json").write_text(whole)
    composed(folder)


def test_a_folder_without_any_template(folder):
    assert chat_template(folder, load_tokenizer(folder, "x", "method.model"), "x") is None
