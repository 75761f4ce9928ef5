"""Every kind of generative model with random weights, small enough for a CPU: made once, saved, and loaded as any other folder is.

For tests of code, not of accuracy. Weights come from one seed, so that their hashes agree.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from data.caching.cache import cache_dir, content_key
from data.caching.entries import cached
from data.code import maker
from data.errors import one_of
from methods.config import GMM
from methods.gmm.vlm import VLM
from methods.networks.backbones import FrozenEncoder
from methods.networks.folders import save_model

SPECIAL = ["<pad>", "<s>", "</s>", "<image>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
SPECIAL += ["<fake_token_around_image>", "<global-img>", "<end_of_utterance>", "<|video_pad|>"]
# What the tokenizer learns to spell in few tokens.
TEXT = "What is this? This is a photo of a zero. one. two. three. four. five. six. seven. eight. nine. User: Assistant: Question: Answer:"
SIZE = 28  # pixels of an image; Qwen-VL, which takes any size, gets twice as many: more than one of its windows
TEXT_MODEL = {"vocab_size": 400, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT_MODEL |= {"max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
LLAMA = {**TEXT_MODEL, "model_type": "llama", "num_key_value_heads": 1}
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": SIZE, "patch_size": 7}
BLIP = {**VISION, "initializer_range": 0.02}  # as they start, BLIP's towers are all but zero, and images tell nothing
QFORMER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "encoder_hidden_size": 32}
QWEN = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 7, "spatial_merge_size": 2, "temporal_patch_size": 2}
ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
IMAGE = {"image_token_id": 3}


def _llava() -> Any:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    return LlavaConfig(vision_config=CLIPVisionConfig(**VISION), text_config=LlamaConfig(**LLAMA), image_token_index=3)


def _instructblip() -> Any:
    from transformers import InstructBlipConfig

    qformer = {**QFORMER, "vocab_size": 400, "cross_attention_frequency": 1}
    return InstructBlipConfig(vision_config=BLIP, qformer_config=qformer, text_config=LLAMA, num_query_tokens=4, image_token_index=3)


def _blip2() -> Any:
    from transformers import Blip2Config

    text = {**TEXT_MODEL, "model_type": "opt", "ffn_dim": 64, "word_embed_proj_dim": 32}
    qformer = {**QFORMER, "cross_attention_frequency": 1}
    return Blip2Config(vision_config=BLIP, qformer_config=qformer, text_config=text, num_query_tokens=4, image_token_index=3)


def _smol(name: str) -> Any:
    import transformers

    given = {"vision_config": VISION, "text_config": LLAMA, "scale_factor": 2, "tie_word_embeddings": True, **IMAGE}
    return getattr(transformers, f"{name}Config")(**given)


def _qwen2_vl() -> Any:
    from transformers import Qwen2VLConfig

    text = {**TEXT_MODEL, "num_key_value_heads": 1, "rope_parameters": ROPE}
    return Qwen2VLConfig(vision_config={**QWEN, "hidden_size": 32, "mlp_ratio": 2}, text_config=text, **IMAGE)


def _qwen2_5_vl() -> Any:
    from transformers import Qwen2_5_VLConfig

    vision = {"hidden_size": 32, "intermediate_size": 64, "out_hidden_size": 32, "window_size": 28, "fullatt_block_indexes": [1], **QWEN}
    text = {**TEXT_MODEL, "num_key_value_heads": 1, "rope_parameters": ROPE}
    return Qwen2_5_VLConfig(vision_config=vision, text_config=text, **IMAGE)


# name -> the configuration, the image processor of transformers and how large it says images are; `composed` is two folders
SQUARE = {"size": {"height": SIZE, "width": SIZE}}
TILED = {"size": {"longest_edge": 4 * SIZE}, "max_image_size": {"longest_edge": SIZE}}
FAMILIES: dict[str, tuple[Callable[[], Any], str, dict[str, Any]]] = {
    "llava": (_llava, "CLIPImageProcessor", {"size": SIZE, "crop_size": SIZE}),
    "instructblip": (_instructblip, "BlipImageProcessor", SQUARE),
    "blip2": (_blip2, "BlipImageProcessor", SQUARE),
    "idefics3": (lambda: _smol("Idefics3"), "Idefics3ImageProcessor", TILED),
    "smolvlm": (lambda: _smol("SmolVLM"), "SmolVLMImageProcessor", TILED),
    "qwen2_vl": (_qwen2_vl, "Qwen2VLImageProcessor", {"patch_size": 7}),
    "qwen2_5_vl": (_qwen2_5_vl, "Qwen2VLImageProcessor", {"patch_size": 7}),
}
# Chat templates in the manner of the published ones, of those that have one: the image, then the question.
LOOP = "{% for message in messages %}"
PARTS = "{% for part in message['content'] %}{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
SMOL = (
    "<|im_start|>"
    + LOOP
    + "{{ message['role'] | capitalize }}{{ ':' if message['content'][0]['type'] == 'image' else ': ' }}"
    + PARTS.replace("IMAGE", "<image>")
    + "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
CHAT = (
    LOOP
    + "<|im_start|>{{ message['role'] }}\n"
    + PARTS.replace("IMAGE", "<|vision_start|><image><|vision_end|>")
    + "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEMPLATES = {"idefics3": SMOL, "smolvlm": SMOL, "qwen2_vl": CHAT, "qwen2_5_vl": CHAT}
ENDS = {SMOL: "<end_of_utterance>", CHAT: "<|im_end|>"}  # what ends an answer there


def tiny(options: GMM) -> tuple[FrozenEncoder, VLM]:
    """-> the small model of method.family, read from its folder. Errors: InputError"""
    from methods.gmm.models import composed
    from methods.gmm.ready import taken_apart

    folder = tiny_folder(options.family)
    if options.family == "composed":
        return composed(replace(_plain(options), encoder=f"hf:{folder / 'encoder'}", decoder=str(folder / "decoder")))
    sized = {"encoder_size": options.encoder_size or 2 * SIZE} if options.family.startswith("qwen") else {}
    return taken_apart(replace(_plain(options), **sized), folder, folder.name)


def tiny_folder(family: str) -> Path:
    """-> the folder of a small model, made if it is not there. Errors: InputError for an unknown family"""
    one_of("method.family", family, [*FAMILIES, "composed"])
    made_by = maker((__name__, "methods.networks.folders"), (), ("torch", "transformers", "tokenizers"))  # others may draw other weights
    return cached(cache_dir("decoders") / f"tiny-{family}-{content_key(made_by)[:16]}", partial(_save, family), folder=True)


def _save(family: str, work: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if family == "composed":
            _save_parts(work)
        else:
            _save_whole(work, family)


def _save_whole(work: Path, family: str) -> None:
    import transformers

    make, processor, sizes = FAMILIES[family]
    words, template = tokenizer(), TEMPLATES.get(family)
    model = transformers.AutoModelForImageTextToText.from_config(make())
    if hasattr(model, "query_tokens"):
        torch.nn.init.normal_(model.query_tokens)  # at zero, where they start, they would all read the same
    save_model(spread(model), work)
    if template is not None:
        words.chat_template = template
        settings = {"eos_token_id": [words.eos_token_id, words.convert_tokens_to_ids(ENDS[template])]}
        transformers.GenerationConfig(**settings).save_pretrained(work)
    words.save_pretrained(work)
    getattr(transformers, processor)(image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.2, 0.3], **sizes).save_pretrained(work)
    if family == "instructblip":
        tokenizer().save_pretrained(work / "qformer_tokenizer")


def _save_parts(work: Path) -> None:
    import transformers

    save_model(spread(transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**VISION))), work / "encoder")
    transformers.CLIPImageProcessor(size=SIZE, crop_size=SIZE).save_pretrained(work / "encoder")
    save_model(spread(transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA))), work / "decoder")
    tokenizer().save_pretrained(work / "decoder")


@torch.no_grad()
def spread(model: Any) -> Any:
    """-> the model with larger weights: as they start, attention is nearly even, and neither positions nor images tell"""
    for parameter in {id(one): one for one in model.parameters() if one.ndim > 1}.values():
        parameter.mul_(5)
    return model


def tokenizer() -> Any:
    """-> a byte-level tokenizer that spells any text, and a few words in one token each"""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, initial_alphabet=letters, show_progress=False)
    made.train_from_iterator([TEXT], trainer)
    named = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, **named)


def _plain(options: Any) -> GMM:
    """-> the options as a dataclass of their own, that `replace` takes: Hydra's are not"""
    from omegaconf import OmegaConf

    return GMM(**OmegaConf.to_container(options)) if OmegaConf.is_config(options) else options
