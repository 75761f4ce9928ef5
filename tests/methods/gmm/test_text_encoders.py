"""Text encoders as their folders describe them. Oracle: transformers' network, pooled by hand as sentence-transformers documents it.

(The same cases were compared with sentence-transformers 6.2 itself: all that are read agreed to 1e-7.)
"""

import json
from pathlib import Path

import pytest
import torch
import transformers
from torch.nn.functional import normalize

from data.errors import InputError
from methods.gmm.match import make_text_encoder
from methods.gmm.tiny import spread, tokenizer

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
TEXTS = ["seven", "Hermit Crab", "This is a Photo of a nine and of much more than that."]
MEAN, NEW = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, {"text": {"method": "forward"}}
NEW["text"]["method_output_name"] = "last_hidden_state"


def bert(**given):
    return transformers.BertModel(transformers.BertConfig(**{"vocab_size": 400, **SMALL, **given}))


def saved(folder: Path, model=None) -> Path:
    torch.manual_seed(0)
    spread(model or bert()).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def sentence(folder: Path, pool=MEAN, modules=("Transformer", "Pooling"), settings=None, more=None, package="sentence_transformers.models"):
    """-> a folder as sentence-transformers saves it"""
    saved(folder)
    paths = ["", *(f"{number}_{kind}" for number, kind in enumerate(modules) if number)]
    listed = [{"idx": at, "name": str(at), "path": paths[at], "type": f"{package}.{kind}"} for at, kind in enumerate(modules)]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **pool}))
    for file, said in (("sentence_bert_config.json", settings), ("config_sentence_transformers.json", more)):
        if said is not None:
            (folder / file).write_text(json.dumps(said))
    return folder


def expected(folder: Path, pool=lambda states: states.mean(1), write=str, **cut) -> torch.Tensor:
    model, words = transformers.AutoModel.from_pretrained(folder).eval(), transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        states = [model(**words(write(text), return_tensors="pt", **cut)).last_hidden_state for text in TEXTS]
        return normalize(torch.cat([pool(one) for one in states]), dim=1)


PROMPTS = {"query": "Ask: ", "document": ""}
DONE = {
    "mean": ({}, {}, {"pooling": "mean"}),
    "cls": ({"pool": {"pooling_mode_cls_token": True}}, {"pool": lambda states: states[:, 0]}, {"pooling": "cls"}),
    "lasttoken": ({"pool": {"pooling_mode_lasttoken": True}}, {"pool": lambda states: states[:, -1]}, {"pooling": "lasttoken"}),
    "as version 6 writes it": ({"pool": {"pooling_mode": "mean", "include_prompt": True}}, {}, {"pooling": "mean"}),
    "unit length": ({"modules": ("Transformer", "Pooling", "Normalize")}, {}, {}),
    "lower case": ({"settings": {"do_lower_case": True}}, {"write": str.lower}, {"lower": True}),
    "short": ({"settings": {"max_seq_length": 4}}, {"truncation": True, "max_length": 4}, {"longest": 4}),
    "settings of version 6": ({"settings": {"transformer_task": "feature-extraction", "modality_config": NEW}}, {}, {}),
    "prompt": (
        {"more": {"prompts": PROMPTS, "default_prompt_name": "query"}},
        {"write": lambda text: f"Ask: {text}"},
        {"prompt": "Ask: "},
    ),
    "another similarity": ({"more": {"similarity_fn_name": "dot"}}, {}, {"differs": "compared by cosine, not by dot"}),
    "prompts for some texts": ({"more": {"prompts": PROMPTS}}, {}, {"differs": "no prompt before a text, of query"}),
}


@pytest.mark.parametrize("what", DONE)
def test_what_a_folder_says_is_done_and_told(what, tmp_path):
    given, theirs, told = DONE[what]
    encoder = make_text_encoder(str(sentence(tmp_path, **given)), None)
    torch.testing.assert_close(encoder(TEXTS), expected(tmp_path, **theirs))
    assert encoder.said().items() >= told.items() and ("differs" in encoder.said()) == ("differs" in told)


WITHOUT = {"pooling_mode_mean_tokens": True, "include_prompt": False}
REFUSED = {
    "max": ({"pool": {"pooling_mode_max_tokens": True}}, "pools its tokens in a way that is not done here .max_tokens.*the last token"),
    "two": ({"pool": {"pooling_mode": ["mean", "cls"]}}, "pools its tokens in a way that is not done here"),
    "none": ({"pool": {}}, "pools its tokens in a way that is not done here .none is said"),
    "dense": ({"modules": ("Transformer", "Pooling", "Dense")}, "has modules that are not done here .sentence_transformers.models.Dense."),
    "code": ({"package": "custom_st"}, "has modules that are not done here .custom_st.Transformer.: name one with a network and a pooling"),
    "no pooling": ({"modules": ("Transformer",)}, "not one network in the folder itself and one pooling"),
    "settings": ({"settings": {"model_args": {"x": 1}}}, "settings that are not understood here .model_args in sentence_bert_config.json."),
    "prompt": (
        {"pool": WITHOUT, "more": {"prompts": PROMPTS, "default_prompt_name": "query"}},
        "pools without its prompt, which is not done here: name another, or minilm",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_done_is_refused(what, tmp_path):
    """All name minilm, or one whose folder says a network and a pooling, as a remedy."""
    given, said = REFUSED[what]
    with pytest.raises(InputError, match=said) as caught:
        make_text_encoder(str(sentence(tmp_path / "wrong", **given)), None)
    assert str(caught.value).endswith("or minilm") and make_text_encoder("minilm", None)(["seven"]).shape == (1, 384)
    assert make_text_encoder(str(sentence(tmp_path / "right")), None)(["seven"]).shape == (1, 32)


TEXT, VISION = {"vocab_size": 400, **SMALL}, {"image_size": 28, "patch_size": 7, **SMALL}
T5 = {"vocab_size": 400, "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2}
KINDS = {
    "T5": (lambda: transformers.T5Model(transformers.T5Config(**T5)), "is a t5, a decoder beside its encoder, and no sentence encoder"),
    "CLIP": (
        lambda: transformers.CLIPModel(transformers.CLIPConfig(text_config=TEXT, vision_config=VISION)),
        "is a clip, a text tower of an image model, .*: name a CLIP as open_clip:NAME, another encoder, or minilm",
    ),
    "CLIP's text": (lambda: transformers.CLIPTextModel(transformers.CLIPTextConfig(**TEXT)), "is a clip_text_model, a text tower"),
    "ViT": (lambda: transformers.ViTModel(transformers.ViTConfig(**VISION)), "cannot read a text .*: name another encoder, or minilm"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_networks_that_are_no_sentence_encoders(kind, tmp_path):
    make, said = KINDS[kind]
    with pytest.raises(InputError, match=said):
        make_text_encoder(str(saved(tmp_path, make())), None)


def test_a_network_without_a_word_on_pooling_is_told(tmp_path):
    """And one whose texts may be of any length."""
    config = transformers.XLNetConfig(vocab_size=400, d_model=32, n_layer=1, n_head=2, d_inner=64)
    encoder = make_text_encoder(str(saved(tmp_path, transformers.XLNetModel(config))), None)
    torch.testing.assert_close(encoder(TEXTS), expected(tmp_path))
    assert encoder.said()["differs"] == "its folder says no pooling" and encoder.said()["longest"] is None


def test_a_tokenizer_with_more_words_than_the_encoder(tmp_path):
    encoder = make_text_encoder(str(saved(tmp_path / "few", bert(vocab_size=300))), None)
    with pytest.raises(
        InputError, match="has 300 words where its tokenizer says 3.. for 'This is .*: put its own tokenizer into its folder"
    ):
        encoder(TEXTS)
    make_text_encoder(str(saved(tmp_path / "right")), None)(TEXTS)


def test_modules_that_cannot_be_read(tmp_path):
    folder = sentence(tmp_path)
    whole = (folder / "modules.json").read_text()
    (folder / "modules.json").write_text(whole[:30])
    with pytest.raises(InputError, match="modules.json cannot be read: fetch it again"):
        make_text_encoder(str(folder), None)
    (folder / "modules.json").write_text(whole)
    make_text_encoder(str(folder), None)
