"""Vision models of transformers as frozen encoders. Shapes: B batch, D features, K channels, H and W in pixels or positions, L tokens."""

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from data.errors import InputError
from methods.learning.sharding import planned
from methods.networks.fed import Fed
from methods.networks.folders import load_whole, model_folder, sentences, weight_hashes
from methods.networks.processors import fed_of, sample

# What one vector of an image is, by the kind of network: transformers' own `pooler_output`, or what its classification head reads
# where it has none, or has one that no head reads (ViT, DeiT). In words, and from the network and its last states.
FIRST, MEAN, NORMED, OWN = "first token", "mean of positions", "first token, normalised", "by its own pooler"
POOLS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    FIRST: lambda module, maps: maps[:, 0],
    MEAN: lambda module, maps: maps.flatten(2).mean(2) if maps.ndim == 4 else maps.mean(1),
    NORMED: lambda module, maps: module.post_layernorm(maps[:, 0]),
    OWN: lambda module, maps: module.pooler(maps),
    "mean of positions, normalised": lambda module, maps: module.layernorm(maps.mean((2, 3))),
    "by its own attention": lambda module, maps: module.head(maps),
}
KINDS = {
    FIRST: "vit deit vit_msn vit_mae pvt dinov2 dinov2_with_registers dinov3_vit dinov3_convnext",
    MEAN: "ijepa swin swinv2 donut-swin levit mobilevit mobilevitv2 pvt_v2 resnet regnet efficientnet align_vision_model bit "
    "focalnet segformer mobilenet_v1 mobilenet_v2",
    NORMED: "clip_vision_model metaclip_2_vision_model chinese_clip_vision_model altclip_vision_model clipseg_vision_model "
    "mlcd_vision_model blip_vision_model",
    OWN: "beit data2vec-vision hiera",
    "mean of positions, normalised": "convnext convnextv2",
    "by its own attention": "siglip_vision_model aimv2_vision_model",
}
POOLED = {kind: way for way, kinds in KINDS.items() for kind in kinds.split()}


class VisionTower(nn.Module):
    """A vision model of transformers as a backbone, with the attributes of `Network`. fed.pooled: one of POOLS, or none."""

    def __init__(self, module: nn.Module, fed: Fed, weights: dict[str, str], given: dict[str, Any] | None = None):
        super().__init__()
        self.module, self.fed, self.weights, self.size, self.given = module, fed, weights, fed.size, given or {}
        with torch.no_grad():
            maps = self.maps(torch.zeros(1, 3, fed.size, fed.size, device=module.device))
            if maps.ndim not in (3, 4) or (maps.ndim == 4 and maps.shape[2] != maps.shape[3]):
                raise ValueError(f"its states have the shape {tuple(maps.shape)}")
            self.convolutional, self.tells_one_vector = maps.ndim == 4, False
            self.width = maps.shape[1 if self.convolutional else -1]
            self.features = self.pool(maps).shape[1] if fed.pooled else self.width

    def maps(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, L, D], or [B, K, H, W] of a convolutional network"""
        return self.module(pixel_values=x.to(self.module.dtype), **self.given).last_hidden_state

    def pool(self, maps: Tensor) -> Tensor:
        """-> [B, D]"""
        return POOLS[self.fed.pooled](self.module, maps.to(self.module.dtype))


def vision_tower(name: str, dtype: torch.dtype = torch.float32, size: int | None = None, range: str = "published") -> VisionTower:
    """-> the vision model of a folder or of the hub, whole; size: pixels of its images, None = as its processor says. Errors: InputError"""
    from transformers import AutoConfig, AutoModel

    folder, said = model_folder(name, "hf"), f"hf:{name}"
    with sentences(name, "hf"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if config.model_type == "timm_wrapper":
        raise InputError(f"{said} is a network of timm: name it timm:{name.removeprefix('timm/')}")
    vision = getattr(config, "vision_config", config)
    if hasattr(config, "vision_config") and not hasattr(config, "projection_dim"):
        raise InputError(
            f"{said} is of an architecture that writes text about images ({config.model_type}), and no encoder: "
            f"use it whole, with method=gmm method.vlm=hf method.model={name}, or name a model of images alone"
        )
    headless = getattr(vision, "use_head", True) is False  # AIMv2's larger part
    way = "" if headless else POOLED.get(vision.model_type, "")
    fed = replace(fed_of(folder, name, "hf", activation=str(getattr(vision, "hidden_act", ""))).sized(size, range), pooled=way)
    if size is not None:
        fed(sample(96, 96)[None])  # it may make no other size
    read = {} if way == OWN else {"unused": "pooler."}  # ViT has a dense one that no head reads
    if vision.model_type == "data2vec-vision":
        read["add_pooling_layer"] = True  # it has one only when asked
    model = load_whole(AutoModel, folder, name, "hf", **read, config=config, dtype=dtype).eval()
    model = getattr(model, "vision_model", model)
    if config.model_type == "vit_mae":
        model.embeddings.random_masking = _nothing_hidden
    given = {}
    published = getattr(vision, "image_size", None)
    if "interpolate_pos_encoding" in inspect.signature(model.forward).parameters and published not in (None, fed.size, [fed.size] * 2):
        given["interpolate_pos_encoding"] = True
    with sentences(name, "hf"):
        try:
            tower = VisionTower(model, fed, weight_hashes(folder, name), given)
        except (ValueError, RuntimeError, AttributeError, TypeError) as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            raise InputError(f"{said} is no encoder of images of {fed.size} pixels ({first}): {_remedy(size)}") from None
    if planned() is None:
        _same_twice(tower, said)
    return tower


def check_pooled(name: str, module: nn.Module) -> None:
    """Errors: InputError for a vision model of transformers of which it is not known what one vector of an image is"""
    if isinstance(module, VisionTower) and not module.fed.pooled:
        raise InputError(
            f"{name} ({module.module.config.model_type}) has no one vector of an image that its authors read: name another model, the same "
            "one in timm or open_clip, or, for method=gmm, set method.visual_tokens=0, all of its positions"
        )


def _nothing_hidden(patches: Tensor, noise: Tensor | None = None) -> tuple[Tensor, None, None]:
    """ViT-MAE hides and shuffles patches in eval mode, too; whole images, as its authors give them to what they tune (He et al. 2022)"""
    return patches, None, None


def _remedy(size: int | None) -> str:
    return "name another model" if size is None else "leave method.encoder_size out"


@torch.inference_mode()
def _same_twice(tower: VisionTower, said: str) -> None:
    """Errors: InputError for a network that draws numbers while it reads"""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 3, tower.size, tower.size, generator=generator).to(tower.module.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first = tower.maps(image)
        torch.manual_seed(1)
        second = tower.maps(image)
    if not torch.equal(first, second):
        raise InputError(
            f"{said} draws numbers at random while it reads an image, so that its features are not its own: name another model"
        )
