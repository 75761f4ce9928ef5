"""Decoders of transformers joined to an image. Oracle: transformers' own model, given all words at once and without a cache."""

import functools

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM

from data.errors import InputError
from methods.base import method_class
from methods.config import GMM
from methods.gmm.tiny import tiny_folder, tokenizer
from methods.gmm.vlm import VLM
from methods.networks.backbones import frozen_encoder

SMALL = {"vocab_size": 400, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = {**SMALL, "num_key_value_heads": 2}
HEADED = {**GROUPED, "head_dim": 8}
OLD = {"vocab_size": 400, "n_embd": 32, "n_layer": 2, "n_head": 4}
MLA = {"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8, "n_group": 1, "topk_group": 1}
ENCODER = functools.cache(frozen_encoder)
READ = {
    "gpt2": OLD,
    "gptj": {**OLD, "rotary_dim": 4},
    "opt": {**SMALL, "ffn_dim": 64, "word_embed_proj_dim": 16},
    "llama": GROUPED,
    "mistral": {**GROUPED, "sliding_window": 64},
    "qwen2": {**GROUPED, "use_sliding_window": True, "sliding_window": 64, "max_window_layers": 1},
    "qwen3": HEADED,
    "gemma": HEADED,
    "gemma3_text": {**HEADED, "sliding_window": 64},
    "phi": SMALL,
    "falcon": SMALL,
    "gpt_neox": SMALL,
    "stablelm": GROUPED,
    "granite": {**GROUPED, "embedding_multiplier": 12.0, "residual_multiplier": 0.2, "attention_multiplier": 0.3},
    "cohere": {**GROUPED, "logit_scale": 1.0},
    "olmo2": GROUPED,
    "mixtral": {**GROUPED, "num_local_experts": 4},
    "qwen3_moe": {**HEADED, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "deepseek_v3": {**SMALL, **MLA, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
}


@pytest.fixture(autouse=True)
def one_encoder(monkeypatch):
    """the same for all of them"""
    monkeypatch.setattr("methods.gmm.models.frozen_encoder", ENCODER)


class Words(nn.Module):
    """In the place of the projection: what comes are words already"""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, features):
        return features


def made(kind, given, folder, accelerator, **options):
    """-> gmm around a decoder with random weights, and transformers' own"""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**given, "eos_token_id": 2, "pad_token_id": 0})).eval()
    for parameter in model.parameters():
        parameter.data += 0.15 * torch.randn(parameter.shape)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    parts = {
        "vlm": "composed",
        "encoder": f"hf:{tiny_folder('composed') / 'encoder'}",
        "decoder": str(folder),
        "visual_tokens": 0,
        "text_encoder": "decoder",
    }
    return method_class("gmm")(GMM(**{"max_new_tokens": 8, **parts, **options}), accelerator), model


@pytest.mark.parametrize("kind", READ)
@torch.no_grad()
def test_a_decoder_says_what_its_library_says(kind, tmp_path, accelerator):
    gmm, model = made(kind, READ[kind], tmp_path, accelerator)
    vlm, prompt = gmm.vlm, gmm.vlm.prompt
    vlm.projector = Words()
    image = torch.randint(20, 390, (2, 9))
    answers = [prompt.answer_tokens(name) for name in ("zebra", "hermit crab")]
    losses = vlm.losses(model.get_input_embeddings()(image), *prompt.batch(answers))
    for row, answer in enumerate(answers):
        whole = torch.cat([prompt.before, image[row], prompt.question, torch.tensor(answer)])[None]
        logits = model(input_ids=whole, use_cache=False).logits[0, -len(answer) - 1 : -1]
        torch.testing.assert_close(losses[row], cross_entropy(logits, torch.tensor(answer)), atol=1e-5, rtol=1e-5)
    said = vlm.answer(model.get_input_embeddings()(image), 8)
    for row in range(2):
        whole = torch.cat([prompt.before, image[row], prompt.question])[None]
        start = whole.shape[1]
        while whole.shape[1] < start + 8 and whole[0, -1] not in prompt.ends:
            whole = torch.cat([whole, model(input_ids=whole, use_cache=False).logits[:, -1:].argmax(-1)], 1)
        assert said[row] == prompt.decode(whole[0, start:].tolist())


ANOTHER = "name another model"
SHORT = {"attention_types": [[["global", "local"], 1]], "window_size": 4, "num_layers": 2, "num_heads": 4}
REFUSED = {
    "bert": (SMALL, {}, ANOTHER),  # it looks at the words to come
    "modernbert-decoder": (GROUPED, {}, f"it says something else when it is given embeddings than in transformers.: {ANOTHER}"),
    "gpt_neo": ({**SMALL, **SHORT}, {}, f"it says something else word by word than in transformers.: {ANOTHER}"),
    "bloom": ({**OLD, "hidden_size": 32}, {}, f"takes no position_ids.: {ANOTHER}"),
    "mamba": ({**SMALL, "state_size": 4}, {}, f"takes no past_key_values.: {ANOTHER}"),
    "lfm2": ({**GROUPED, "layer_types": ["conv", "full_attention"]}, {}, "keeps more of the past than keys and values"),
    "gemma2": (HEADED, {}, f"has final_logit_softcapping beside its head.: {ANOTHER}"),
    "cohere": (GROUPED, {}, f"has logit_scale beside its head.: {ANOTHER}"),
    "granite": ({**GROUPED, "logits_scaling": 8.0}, {}, f"has logits_scaling beside its head.: {ANOTHER}"),
    "falcon": ({**SMALL, "alibi": True}, {"scoring": "likelihood"}, ANOTHER),
    "mistral": ({**GROUPED, "sliding_window": 8}, {}, "looks back at 8 tokens in some layers, .* set method.visual_tokens=1, or"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_decoder_that_would_say_something_else(kind, tmp_path, accelerator):
    given, options, said = REFUSED[kind]
    with pytest.raises(InputError, match=said) as caught:
        made(kind, given, tmp_path, accelerator, **options)
    assert len(str(caught.value).splitlines()) == 1 and f"method.decoder={tmp_path}" in str(caught.value)


def test_a_device_that_is_full_is_no_fault_of_the_decoder(tmp_path, accelerator, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(VLM, "read", full)
    with pytest.raises(torch.OutOfMemoryError):
        made("llama", GROUPED, tmp_path, accelerator)


def test_a_window_that_one_token_fits(tmp_path, accelerator):
    """What its sentence says, done"""
    given = {**GROUPED, "sliding_window": 30}
    with pytest.raises(InputError, match="looks back at 30 tokens"):
        made("mistral", given, tmp_path, accelerator)
    made("mistral", given, tmp_path, accelerator, visual_tokens=1)


def test_a_window_that_is_long_enough(tmp_path, accelerator):
    """Oracle: the same weights without a window"""
    scores = []
    for window in (64, None):
        gmm, _ = made("mistral", {**GROUPED, "sliding_window": window}, tmp_path / str(window), accelerator, scoring="likelihood")
        torch.manual_seed(1)
        gmm.names, gmm.vlm.projector = ["zebra", "hermit crab"], Words()
        scores.append(gmm.predict(torch.randn(2, 9, 32)).scores)
    torch.testing.assert_close(*scores)


@torch.no_grad()
def test_an_image_starts_as_long_as_a_word(tmp_path, accelerator):
    """also where an architecture multiplies its words as they are looked up"""
    for kind in ("llama", "gemma3_text"):
        gmm, model = made(kind, READ[kind], tmp_path / kind, accelerator)
        images = gmm.vlm.projector(torch.randn(500, 1, 32))
        assert images.std() == pytest.approx(model.get_input_embeddings()(torch.arange(400)).std().item(), rel=0.15)
