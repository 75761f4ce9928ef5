"""Ready-made image-text-to-text models of transformers, used whole: where the frozen features end and what comes after them.

Shapes: B batch, L image positions, D features, Q query tokens, E decoder width.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from data.errors import InputError
from methods.config import GMM
from methods.gmm.models import check_decoder, language_said, make_prompt
from methods.gmm.numerics import DTYPES
from methods.gmm.prompt import Prompt
from methods.gmm.queries import Queries
from methods.gmm.template import Template, end_tokens, published
from methods.gmm.tuning import parts, quantization
from methods.gmm.vlm import VLM, Decoder
from methods.learning.sharding import in_shares, whole
from methods.networks.backbones import FrozenEncoder
from methods.networks.fed import Fed
from methods.networks.folders import load_tokenizer, load_whole, model_folder, sentences, weight_hashes
from methods.networks.processors import fed_of


class Family(NamedTuple):
    """How the models of one architecture are taken apart."""

    vision: str  # the vision tower; its features are cached, or those of the Q-Former, where there is one that does not train
    read: Callable[[nn.Module, Any, Tensor], Tensor]  # (tower, configuration, pixels [B, 3, H, W]) -> [B, L, D]
    projector: str  # the projection into the language model: what trains by default, as in the paper
    language: str
    before: str = "{bos}"  # text before the image, where the folder has no chat template
    after: str = "{}"  # text after it; {} is the question
    around: str = "{}"  # what the model's own processor puts around the image's tokens
    queries: bool = False  # a Q-Former reads the image between the two
    grid: int | None = None  # pixels, where the model takes images of any size


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


# The text is that of the folder's chat template; where it has none, that of the model's page. BLIP's models put the image first, before
# the first token. Here the first token stands before it, as in GMM's sequence (section 3): see prompt.py.
SMOL = {"around": "<fake_token_around_image><global-img>{}<fake_token_around_image>"}
QWEN = {"grid": 224}
# By `model_type` of the folder's configuration.
FAMILIES = {
    "instructblip": Family("vision_model", _plain, "language_projection", "language_model", queries=True),
    "blip-2": Family("vision_model", _plain, "language_projection", "language_model", after="Question: {} Answer:", queries=True),
    "llava": Family("model.vision_tower", _layer, "model.multi_modal_projector", "model.language_model", "{bos}USER: ", "\n{} ASSISTANT:"),
    "idefics3": Family("model.vision_model", _masked, "model.connector", "model.text_model", **SMOL),
    "smolvlm": Family("model.vision_model", _masked, "model.connector", "model.text_model", **SMOL),
    "qwen2_vl": Family("model.visual", _patches, "model.visual.merger", "model.language_model", **QWEN),
    "qwen2_5_vl": Family("model.visual", _patches, "model.visual.merger", "model.language_model", **QWEN),
}
FIRST = "the first token stands before the image, not after it"


class Tower(nn.Module):
    """The frozen part of a model, with the attributes that `FrozenEncoder` asks for."""

    def __init__(self, vision: nn.Module, read: Callable[[nn.Module, Tensor], Tensor], queries: nn.Module | None):
        super().__init__()
        self.vision, self.read, self.queries = vision, read, queries
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
    from transformers import AutoConfig, AutoModelForImageTextToText

    said = f"method.model={name}"
    with sentences(name, "method.model"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if config.model_type not in FAMILIES:
        raise InputError(f"{said} is a {config.model_type}, which cannot be used here: name a model of {', '.join(sorted(FAMILIES))}")
    family = FAMILIES[config.model_type]
    if not getattr(config, "use_decoder_only_language_model", True):
        raise InputError(f"{said} has a language model with an encoder of its own: name one with a decoder alone")
    fed = _fed(options, folder, family, config, name)
    given = {"dtype": DTYPES[options.dtype], **quantization(options)}
    with in_shares(given["dtype"]):  # the encoder's; `load_vlm` casts the decoder
        model = load_whole(AutoModelForImageTextToText, folder, name, "method.model", **given).eval().requires_grad_(False)
    tokenizer = load_tokenizer(folder, name, "method.model")
    language = model.get_submodule(family.language)
    decoder = language if family.queries else Decoder(language, model.lm_head)
    whole(model, but=(decoder,))
    check_decoder(decoder, said)
    prompt = _prompt(options, folder, family, config, tokenizer, said)
    vision, projector = (model.get_submodule(at) for at in (family.vision, family.projector))
    if family.read is _patches:
        vision.merger = nn.Identity()  # it trains on its own from now on, in a precision of its own
        projector, side = Merged(projector), fed.size // config.vision_config.patch_size // config.vision_config.spatial_merge_size
        language.register_forward_pre_hook(ImagePositions(len(prompt.before), side), with_kwargs=True)
    queries, asked = (_queries(model, folder, options.question), options.question) if family.queries else (None, "")
    if "qformer" in parts(options) and queries is not None:
        projector, queries, asked = nn.Sequential(queries, projector), None, ""
    tower = Tower(vision, lambda module, pixels: family.read(module, config, pixels), queries).eval().requires_grad_(False)
    with sentences(name, "method.model"):
        tower.shape = _shape(tower, family, config, fed.size)
    weights = weight_hashes(folder, name)
    detail = " ".join((config.model_type, options.dtype, "queries" if queries is not None else "vision", asked))
    encoder = FrozenEncoder(fed, tower, weights, grid=None, detail=detail)
    vlm = VLM(decoder, prompt, tower.width, weights, projector)
    vlm.made_of = {"encoder": encoder.said(), "decoder": language_said(decoder, name, prompt, options, weights, folder)}
    return encoder, vlm


def _fed(options: GMM, folder: Path, family: Family, config: Any, name: str) -> Fed:
    """-> how the model's images are made. Errors: InputError for a size that the model cannot take"""
    said, vision, size = f"method.model={name}", config.vision_config, options.encoder_size
    activation = str(getattr(vision, "hidden_act", ""))
    if family.grid is not None:
        step = vision.patch_size * vision.spatial_merge_size
        if (size or family.grid) % step:
            raise InputError(f"method.encoder_size={size or family.grid} must be a multiple of {step} for {said}")
        return fed_of(folder, name, "method.model", activation=activation, grid=size or family.grid)
    fed = fed_of(folder, name, "method.model", activation=activation)
    if size not in (None, fed.size):
        raise InputError(f"{said} takes images of {fed.size} pixels: set method.encoder_size={fed.size} or null")
    if vision.image_size != fed.size:
        raise InputError(f"{said} is of {vision.image_size} pixels where its image processor makes {fed.size}: name a complete folder")
    return replace(fed, differs="; ".join(filter(None, (fed.differs, FIRST if family.queries else ""))))


def _prompt(options: GMM, folder: Path, family: Family, config: Any, tokenizer: Any, said: str) -> Prompt:
    """-> the prompt of a folder's chat template, or of its family. Errors: InputError"""
    place = getattr(config, "image_token_id", None)
    place = place if place is not None else getattr(config, "image_token_index", None)
    image = tokenizer.convert_ids_to_tokens(place) if place is not None and place < len(tokenizer) else None
    own = Template(family.before, family.after)
    if image is not None and not family.queries and (options.before is None or options.after is None):
        own = published(folder, tokenizer, image, family.around, said) or own
    ends = end_tokens(folder, tokenizer, config.get_text_config(), own.tail)
    more = {"lead": own.lead, "ends": ends, "image": None if family.queries else image, "words": config.get_text_config().vocab_size}
    return make_prompt(tokenizer, options, own.before, own.after, **more)


@torch.inference_mode()
def _shape(tower: Tower, family: Family, config: Any, size: int) -> tuple[int, int]:
    """-> vectors an image and their width; found without computing where the model looks at numbers on its way, which a plan has not"""
    vision = config.vision_config
    if tower.queries is not None:
        return tower.queries.shape
    if family.read in (_masked, _patches):
        return (size // vision.patch_size) ** 2, getattr(vision, "embed_dim", vision.hidden_size)
    return tuple(tower.maps(torch.zeros(1, 3, size, size, device=next(tower.parameters()).device)).shape[1:])


def _queries(model: nn.Module, folder: Path, question: str) -> Queries:
    if not hasattr(model.qformer, "embeddings"):  # BLIP-2's reads no text
        return Queries(model.qformer, model.query_tokens)
    tokenizer = load_tokenizer(folder, str(folder), "the Q-Former of method.model", subfolder="qformer_tokenizer")
    return Queries(model.qformer, model.query_tokens, torch.tensor(tokenizer(question).input_ids))
