"""Ready-made image-text-to-text models of transformers, used whole: where the frozen features end and what comes after them.

Shapes: B batch, L image positions, D features, Q query tokens, E decoder width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from data.errors import InputError, one_of
from methods.config import GMM
from methods.gmm.models import DTYPES, check_decoder, make_prompt
from methods.gmm.queries import Queries
from methods.gmm.tuning import parts, quantization
from methods.gmm.vlm import VLM, Decoder
from methods.learning.sharding import in_shares, whole
from methods.networks.backbones import FrozenEncoder, prepare
from methods.networks.encoders import preprocessing
from methods.networks.folders import load_whole, model_folder, sentences, weight_hashes


class Family(NamedTuple):
    """How the models of one architecture are taken apart."""

    vision: str  # the vision tower; its features are cached, or those of the Q-Former, where there is one that does not train
    read: Callable[[nn.Module, Any, Tensor], Tensor]  # (tower, configuration, pixels [B, 3, H, W]) -> [B, L, D]
    projector: str  # the projection into the language model: what trains by default, as in the paper
    language: str
    before: str  # text before the image
    after: str  # text after it; {} is the question
    stop: str | None = None  # text of the token that ends an answer; None = the tokenizer's last
    queries: bool = False  # a Q-Former reads the image between the two
    size: int | None = None  # pixels, where neither configuration nor image processor says a fixed size


def _plain(tower: nn.Module, config: Any, pixels: Tensor) -> Tensor:
    return tower(pixel_values=pixels).last_hidden_state


def _layer(tower: nn.Module, config: Any, pixels: Tensor) -> Tensor:
    """LLaVA: an inner layer's output, without the class token."""
    layers = config.vision_feature_layer
    states = tower(pixel_values=pixels, output_hidden_states=True).hidden_states
    first = 1 if config.vision_feature_select_strategy == "default" else 0
    return torch.cat([states[layer][:, first:] for layer in ([layers] if isinstance(layers, int) else layers)], -1)


def _masked(tower: nn.Module, config: Any, pixels: Tensor) -> Tensor:
    """Idefics3 and SmolVLM: one image whole, where the models' own processors may add its tiles."""
    grid = pixels.shape[-1] // config.vision_config.patch_size
    mask = torch.ones(len(pixels), grid, grid, dtype=torch.bool, device=pixels.device)
    return tower(pixel_values=pixels, patch_attention_mask=mask).last_hidden_state


def _patches(tower: nn.Module, config: Any, pixels: Tensor) -> Tensor:
    """Qwen-VL: patches in the order in which the projection merges them, s x s at a time, each as two equal frames."""
    vision = config.vision_config
    p, s, count = vision.patch_size, vision.spatial_merge_size, len(pixels)
    side = pixels.shape[-1] // p
    cut = pixels.view(count, 3, side // s, s, p, side // s, s, p).permute(0, 2, 5, 3, 6, 1, 4, 7)[..., None, :, :]
    frames = cut.expand(*cut.shape[:6], vision.temporal_patch_size, p, p).reshape(count * side**2, -1)
    grid = torch.tensor([[1, side, side]] * count, device=pixels.device)
    found = tower(frames, grid_thw=grid).last_hidden_state
    if hasattr(tower, "window_size"):  # 2.5 computes them window by window
        from transformers.vision_utils import get_vision_window_index

        order, _ = get_vision_window_index(grid, spatial_merge_size=s, window_size=tower.window_size, patch_size=p)
        found = found.view(-1, s * s, found.shape[-1])[order.to(found.device).argsort()]
    return found.reshape(count, side**2, -1)


# MiniGPT-4's template (github.com/Vision-CAIR/MiniGPT-4), which GMM's release trains with; the other ones are those of the models' pages.
# Some of these put the image first. Here the first token stands before it, as in GMM's sequence (section 3): see prompt.py.
MINIGPT4 = {"before": "{bos}###Human: <Img>", "after": "</Img> {} ###Assistant:"}
SMOL = {
    "before": "<|im_start|>User:<fake_token_around_image><global-img>",
    "after": "<fake_token_around_image>{}<end_of_utterance>\nAssistant:",
    "stop": "<end_of_utterance>",
}
QWEN = {
    "before": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>",
    "after": "<|vision_end|>{}<|im_end|>\n<|im_start|>assistant\n",
    "stop": "<|im_end|>",
    "size": 224,
}
LLAVA = {"before": "{bos}USER: ", "after": "\n{} ASSISTANT:"}
BLIP2 = {"before": "{bos}", "after": " Question: {} Answer:"}
# By `model_type` of the folder's configuration.
FAMILIES = {
    "instructblip": Family("vision_model", _plain, "language_projection", "language_model", **MINIGPT4, queries=True),
    "blip-2": Family("vision_model", _plain, "language_projection", "language_model", **BLIP2, queries=True),
    "llava": Family("model.vision_tower", _layer, "model.multi_modal_projector", "model.language_model", **LLAVA),
    "idefics3": Family("model.vision_model", _masked, "model.connector", "model.text_model", **SMOL),
    "smolvlm": Family("model.vision_model", _masked, "model.connector", "model.text_model", **SMOL),
    "qwen2_vl": Family("model.visual", _patches, "model.visual.merger", "model.language_model", **QWEN),
    "qwen2_5_vl": Family("model.visual", _patches, "model.visual.merger", "model.language_model", **QWEN),
}


class Tower(nn.Module):
    """The frozen part of a model, with the attributes that `FrozenEncoder` asks for."""

    def __init__(self, vision: nn.Module, read: Callable[[nn.Module, Tensor], Tensor], queries: nn.Module | None, mean, std):
        super().__init__()
        self.vision, self.read, self.queries, self.mean, self.std = vision, read, queries, tuple(mean), tuple(std)
        self.shape, self.convolutional = (0, 0), False  # vectors an image, and their width

    @property
    def width(self) -> int:
        return self.shape[1]

    def maps(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, L, D], or of the Q-Former [B, Q, D]"""
        found = self.read(self.vision, x.to(next(self.vision.parameters()).dtype))
        return found if self.queries is None else self.queries(found)

    def pool(self, maps: Tensor) -> Tensor:
        return maps.mean(1)


class Merged(nn.Module):
    """Qwen-VL's projection, which knows no batch: [B, L, D] -> [B, L / s^2, E]"""

    def __init__(self, merger: nn.Module):
        super().__init__()
        self.merger = merger

    def forward(self, features: Tensor) -> Tensor:
        return self.merger(features.flatten(0, 1)).unflatten(0, (len(features), -1))


@dataclass(frozen=True)
class ImagePositions:
    """Qwen-VL's positions: those of an image, side x side tokens after `start` ones, are rows and columns, and take as many as its side.

    A hook before the language model, which gets positions that count the tokens.
    """

    start: int
    side: int

    def __call__(self, model: nn.Module, args: tuple, given: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        at, words = given.get("position_ids"), given.get("inputs_embeds")
        if at is None:
            words = words if words is not None else given["input_ids"]
            cache = given.get("past_key_values")
            seen = cache.get_seq_length() if cache is not None else 0
            at = torch.arange(seen, seen + words.shape[1], device=words.device).expand(len(words), -1)
        return args, {**given, "position_ids": self.spread(at)}

    def spread(self, at: Tensor) -> Tensor:
        """int64 [B, tokens] -> [3, B, tokens]: frame, row, column"""
        inside = at - self.start
        image = (inside >= 0) & (inside < self.side**2)
        word = torch.where(inside < 0, at, at - self.side**2 + self.side)
        where = (torch.zeros_like(at), inside // self.side, inside % self.side)
        return torch.stack([torch.where(image, self.start + one, word) for one in where])


def ready(options: GMM) -> tuple[FrozenEncoder, VLM]:
    """-> the model of the folder or hub id method.model. Errors: InputError"""
    return taken_apart(options, model_folder(options.model, "method.model"), options.model)


def taken_apart(options: GMM, folder: Path, name: str) -> tuple[FrozenEncoder, VLM]:
    """-> the model of a folder as frozen encoder, projector and decoder. Errors: InputError"""
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer

    said = f"method.model={name}"
    with sentences(name, "method.model"):
        config = AutoConfig.from_pretrained(folder)
    one_of(f"architecture of {said}", config.model_type, FAMILIES)
    family = FAMILIES[config.model_type]
    if not getattr(config, "use_decoder_only_language_model", True):
        raise InputError(f"{said} has a language model with an encoder of its own: name one with a decoder alone")
    size, mean, std = preprocessing(folder, name, "method.model", getattr(config.vision_config, "image_size", None) or family.size)
    size = _sized(options, config, size, said, fixed=family.size is None)
    given = {"dtype": DTYPES[options.dtype], **quantization(options)}
    with in_shares():
        model = load_whole(AutoModelForImageTextToText, folder, name, "method.model", **given).eval().requires_grad_(False)
    with sentences(name, "the tokenizer of method.model"):
        tokenizer = AutoTokenizer.from_pretrained(folder)
    language = model.get_submodule(family.language)
    decoder = language if family.queries else Decoder(language, model.lm_head)
    whole(model, but=(decoder,))
    check_decoder(decoder, said)
    prompt = make_prompt(tokenizer, options, family.before, family.after, family.stop)
    vision, projector = (model.get_submodule(at) for at in (family.vision, family.projector))
    if family.read is _patches:
        vision.merger = nn.Identity()  # it trains on its own from now on, in a precision of its own
        projector, side = Merged(projector), size // config.vision_config.patch_size // config.vision_config.spatial_merge_size
        language.register_forward_pre_hook(ImagePositions(len(prompt.before), side), with_kwargs=True)
    queries, asked = (_queries(model, folder, options.question), options.question) if family.queries else (None, "")
    if "qformer" in parts(options) and queries is not None:
        projector, queries, asked = nn.Sequential(queries, projector), None, ""
    tower = Tower(vision, lambda module, pixels: family.read(module, config, pixels), queries, mean, std).eval().requires_grad_(False)
    tower.shape = _shape(tower, family, config, size)
    weights = weight_hashes(folder, name)
    encoder = FrozenEncoder(
        name=f"{config.model_type}@{size}-{options.dtype}-{'queries' if queries is not None else 'vision'}-{asked}",
        module=tower,
        preprocess=lambda images: prepare(tower, images, size),
        weights=weights,
        grid=None,
    )
    return encoder, VLM(decoder, prompt, tower.width, weights, projector)


@torch.inference_mode()
def _shape(tower: Tower, family: Family, config: Any, size: int) -> tuple[int, int]:
    """-> vectors an image and their width; found without computing where the model looks at numbers on its way, which a plan has not"""
    vision = config.vision_config
    if tower.queries is not None:
        return tower.queries.shape
    if family.read in (_masked, _patches):
        return (size // vision.patch_size) ** 2, getattr(vision, "embed_dim", vision.hidden_size)
    return tuple(tower.maps(torch.zeros(1, 3, size, size, device=next(tower.parameters()).device)).shape[1:])


def _sized(options: GMM, config: Any, size: int, said: str, fixed: bool) -> int:
    """-> pixels of an image. Errors: InputError for a size that the model cannot take"""
    if options.image_size in (None, size):
        return size
    if fixed:
        raise InputError(f"{said} takes images of {size} pixels: set method.image_size={size} or null")
    step = config.vision_config.patch_size * config.vision_config.spatial_merge_size
    if options.image_size % step:
        raise InputError(f"method.image_size={options.image_size} must be a multiple of {step} for {said}")
    return options.image_size


def _queries(model: nn.Module, folder: Path, question: str) -> Queries:
    from transformers import AutoTokenizer

    if not hasattr(model.qformer, "embeddings"):  # BLIP-2's reads no text
        return Queries(model.qformer, model.query_tokens)
    with sentences(str(folder), "the tokenizer of the Q-Former of method.model"):
        tokenizer = AutoTokenizer.from_pretrained(folder, subfolder="qformer_tokenizer")
    return Queries(model.qformer, model.query_tokens, torch.tensor(tokenizer(question).input_ids))
