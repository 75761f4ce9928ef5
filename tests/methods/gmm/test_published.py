"""What generative models read around an image. Oracle: transformers' own processor, of the published folders where they are here."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import transformers

from bench.run import main
from data.errors import InputError
from methods.config import GMM
from methods.gmm.models import load_vlm
from methods.gmm.prompt import Prompt
from methods.gmm.ready import FAMILIES, _prompt
from methods.gmm.tiny import FAMILIES as TINY
from methods.gmm.tiny import tiny_folder, tokenizer
from methods.networks.folders import load_tokenizer
from methods.networks.processors import sample

FOLDERS = Path(os.environ.get("CILBENCH_MODELS", "no folder"))
QUESTION = "What is this?"
SKIP = pytest.mark.skipif(not FOLDERS.is_dir(), reason="set CILBENCH_MODELS to the folder of llava-1.5-7b-hf/, …")


def prompt_of(folder: Path) -> Prompt:
    config = transformers.AutoConfig.from_pretrained(folder)
    words = load_tokenizer(folder, str(folder), "method.model")
    return _prompt(GMM(question=QUESTION), folder, FAMILIES[config.model_type], config, words, "method.model=x")


@SKIP
@pytest.mark.parametrize("name", ["llava-1.5-7b-hf", "SmolVLM-256M-Instruct", "Qwen2.5-VL-3B-Instruct", "blip2-opt-2.7b"])
def test_ids_around_the_image_are_the_processors(name):
    folder, prompt = FOLDERS / name, prompt_of(FOLDERS / name)
    config, made = transformers.AutoConfig.from_pretrained(folder), transformers.AutoProcessor.from_pretrained(folder)
    place = getattr(config, "image_token_id", None) or config.image_token_index
    whole = {"do_image_splitting": False} if "Smol" in name else {}
    if name.startswith("blip2"):
        text = f"Question: {QUESTION} Answer:"
    else:
        asked = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}
        text = made.apply_chat_template([asked], add_generation_prompt=True, tokenize=False)
    ids = made(images=[sample(224, 224)], text=text, return_tensors="pt", **whole)["input_ids"][0].tolist()
    at = [number for number, token in enumerate(ids) if token == place]
    before, after = ids[: at[0]], ids[at[-1] + 1 :]
    print(name, before, prompt.before.tolist(), after, prompt.question.tolist())
    if name.startswith("blip2"):  # the first token stands before the image, not after it: declared
        before, after = after[:1], after[1:]
    assert (prompt.before.tolist(), prompt.question.tolist()) == (before, after)


@SKIP
def test_end_tokens_are_the_models_own():
    names = ("llava-1.5-7b-hf", "SmolVLM-256M-Instruct", "blip2-opt-2.7b", "Qwen2.5-VL-3B-Instruct")
    ends = {name: prompt_of(FOLDERS / name).ends for name in names}
    assert ends["blip2-opt-2.7b"] == (50118,) and ends["llava-1.5-7b-hf"] == (2,)
    assert ends["SmolVLM-256M-Instruct"] == (49279,) and ends["Qwen2.5-VL-3B-Instruct"] == (151645, 151643)


@pytest.mark.parametrize("family", ["idefics3", "smolvlm", "qwen2_vl"])
def test_the_answer_stands_where_the_template_puts_it(family):
    """Oracle: the template of the whole conversation, tokenized at once."""
    prompt = prompt_of(tiny_folder(family))
    words = prompt.tokenizer
    turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}]
    turns += [{"role": "assistant", "content": [{"type": "text", "text": "This is a photo of a seven."}]}]
    text = words.apply_chat_template(turns, tokenize=False)
    after = words(text, add_special_tokens=False).input_ids
    ours = [*prompt.question.tolist(), *prompt.answer_tokens("seven")]
    ours = ours[1:] if family in ("idefics3", "smolvlm") else ours  # their processor puts a token more around the image
    assert ours == after[after.index(3) + 1 :][: len(ours)]


def test_a_family_whose_tokenizer_has_other_tokens(tmp_path):
    """Idefics3-8B has a first token and none of SmolVLM's: its own template and settings say what it reads."""
    folder = shutil.copytree(tiny_folder("idefics3"), tmp_path / "idefics3")
    for place in folder.glob("chat_template*"):
        place.unlink()
    turn = "<s>User:<image>{{ messages[0]['content'][1]['text'] }}\nAssistant:"
    told = "{% if messages|length > 1 %} {{ messages[1]['content'][0]['text'] }}</s>{% endif %}"
    (folder / "chat_template.jinja").write_text(turn + told)
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**settings, "eos_token_id": 2}))
    prompt = load_vlm(GMM(vlm="hf", model=str(folder), visual_tokens=0))[1].prompt
    assert prompt.said() == {
        "before": "<s>User:<fake_token_around_image><global-img>",
        "after": "<fake_token_around_image>What is this?\nAssistant:",
        "stop": ["</s>"],
    }


def test_an_answer_ends_at_any_of_the_models_end_tokens():
    _, vlm = load_vlm(GMM(vlm="tiny", family="qwen2_vl", visual_tokens=0))
    assert vlm.prompt.ends == (5, 2)
    seven = vlm.prompt.encode("seven").tolist()
    assert vlm.prompt.decode([*seven, 2, *seven]) == vlm.prompt.decode([*seven, 5]) == "seven"


def test_settings_that_would_change_answers_are_told(tmp_path):
    """Qwen2.5-VL's punish what was said before; answers here are greedy, and the record says in what they are not the published ones."""
    assert "differs" not in load_vlm(GMM(vlm="tiny", family="llava", visual_tokens=0))[1].made_of["decoder"]
    folder = shutil.copytree(tiny_folder("llava"), tmp_path / "llava")
    settings = {"repetition_penalty": 1.05, "num_beams": 1, "do_sample": True, "temperature": 1e-6, "eos_token_id": 2}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    said = load_vlm(GMM(vlm="hf", model=str(folder), visual_tokens=0))[1].made_of["decoder"]
    assert said["differs"] == "greedy answers, without repetition_penalty=1.05"


def test_a_decoder_without_an_end_token():
    words = tokenizer()
    words.eos_token = None
    with pytest.raises(InputError, match="set method.stop to the text of one token, '.' say"):
        Prompt(words, "<s>", QUESTION, "a photo of a {}.")
    assert len(Prompt(words, "<s>", QUESTION, "a photo of a {}.", stop=".").ends) == 1


def test_a_decoder_with_fewer_words_than_its_tokenizer():
    with pytest.raises(InputError, match="where the decoder has 20 words"):
        Prompt(tokenizer(), "<s>", QUESTION, "a photo of a {}.", words=20)


def test_names_that_the_tokenizer_does_not_know():
    from tokenizers import Tokenizer, models, pre_tokenizers

    known = ["<unk>", "</s>", "a", "photo", "of", ".", "seven", "What", "is", "this", "?"]
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(known)}, "<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    words = transformers.PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", eos_token="</s>")
    prompt = Prompt(words, "a photo", QUESTION, "a photo of a {}.")
    with pytest.raises(InputError, match="does not know all of the class name 'zebra' .<unk>.: rename the class"):
        prompt.check(("seven", "zebra"))
    prompt.check(("seven", "seven a"))
    with pytest.raises(InputError, match="class name 'a </s>' holds what the decoder's tokenizer reads as a token of its own"):
        prompt.check(("seven", "a </s>"))


@pytest.mark.parametrize("name", ["Gemma3Config", "PaliGemmaConfig", "LlavaOnevisionConfig", "InternVLConfig", "MllamaConfig"])
def test_other_architectures_by_their_configuration(name, tmp_path):
    """Refused with a true sentence, that names what can be used; and what it names can."""
    getattr(transformers, name)().save_pretrained(tmp_path)
    kind = json.loads((tmp_path / "config.json").read_text())["model_type"]
    with pytest.raises(InputError, match=f"is a {kind}, which cannot be used here: name a model of blip-2, idefics3") as caught:
        load_vlm(GMM(vlm="hf", model=str(tmp_path), visual_tokens=0))
    assert "llava" in str(caught.value)
    load_vlm(GMM(vlm="hf", model=str(tiny_folder("llava")), visual_tokens=0))


def test_a_tokenizer_model_alone(tmp_path, monkeypatch):
    """What Vicuna and early Llama have; sentencepiece reads it."""
    sentencepiece = pytest.importorskip("sentencepiece")
    lines = tmp_path / "lines.txt"
    lines.write_text("\n".join(f"This is a photo of a {word}. What is this?" for word in ("zero", "one", "seven", "nine", "eight")) * 20)
    folder = tmp_path / "decoder"
    shutil.copytree(tiny_folder("composed") / "decoder", folder)
    for file in folder.glob("*token*"):
        file.unlink()
    given = {"vocab_size": 60, "model_type": "bpe", "unk_id": 0, "bos_id": 1, "eos_id": 2, "character_coverage": 1.0}
    sentencepiece.SentencePieceTrainer.train(input=str(lines), model_prefix=str(tmp_path / "tokenizer"), minloglevel=2, **given)
    shutil.move(tmp_path / "tokenizer.model", folder / "tokenizer.model")
    kind = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(kind))
    words = load_tokenizer(folder, "x", "method.decoder")
    assert words.decode(words("photo", add_special_tokens=False).input_ids).strip() == "photo"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs sentencepiece: `pip install sentencepiece protobuf`"):
        load_tokenizer(folder, "x", "method.decoder")


def plan(*options, tmp_path) -> int:
    return main(["method=gmm", "stream=digits", "dry_run=true", "progress=false", f"results={tmp_path}", *options])


@pytest.mark.parametrize("family", TINY)
def test_a_plan_needs_no_weights(family, tmp_path, capsys, monkeypatch):
    """Configuration and tokenizer alone; nothing is hashed; what is missing is named, and with it there the plan is whole."""
    folder, size = tmp_path / "model", ["method.encoder_size=56"] if family.startswith("qwen") else []
    shutil.copytree(tiny_folder(family), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    monkeypatch.setattr("methods.networks.weights.file_sha256", lambda path: pytest.fail("a plan hashes nothing"))
    options = ["method.vlm=hf", f"method.model={folder}", "method.text_encoder=decoder", *size]
    assert plan(*options, tmp_path=tmp_path) == 2
    said = capsys.readouterr().out
    assert (
        f"missing  method.model={folder}: the folder holds no weights" in said
        and "features " in said
        and "encoder  model (transformers)" in said
    )
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert plan(*options, tmp_path=tmp_path) == 2 and "fetch them with `git lfs pull`" in capsys.readouterr().out
    os.remove(folder / "model.safetensors")
    shutil.copy(tiny_folder(family) / "model.safetensors", folder)
    assert plan(*options, tmp_path=tmp_path) == 0 and "missing" not in capsys.readouterr().out


def test_an_index_names_what_lacks(tmp_path, capsys):
    folder = shutil.copytree(tiny_folder("llava"), tmp_path / "model")
    weights = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    shutil.move(folder / "model.safetensors", folder / "model-1.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(weights))
    with pytest.raises(InputError, match="lacks 1 of its files of weights .model-2.safetensors.: name a complete folder"):
        load_vlm(GMM(vlm="hf", model=str(folder), visual_tokens=0))


def test_pooling_of_a_sentence_encoder(tmp_path):
    from methods.gmm.match import packaged_text_encoder
    from methods.gmm.pooling import pooling

    assert pooling(tmp_path, "x")["pooling"] == "mean"
    (tmp_path / "1_Pooling").mkdir()
    for mode, expected in (("cls_token", "cls"), ("mean_tokens", "mean")):
        (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{mode}": True, "pooling_mode_max_tokens": False}))
        assert pooling(tmp_path, "x")["pooling"] == expected
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_max_tokens": True}))
    with pytest.raises(InputError, match="name one of the mean, the first or the last token, or minilm"):
        pooling(tmp_path, "x")
    encoder = packaged_text_encoder()
    assert (encoder.fed["pooling"], encoder.fed["longest"]) == ("mean", 256)
    torch.testing.assert_close(encoder(["seven"]).norm(dim=1), torch.ones(1))
