"""Models of open_clip: images and texts in one space.

How a model is fed follows from its tag, or from the configuration beside its weights.
"""

from pathlib import Path
from typing import Any

import open_clip
from torch import nn

from data.errors import InputError, one_of
from methods.learning.sharding import planned
from methods.networks.fed import Fed, activations
from methods.networks.folders import read_json
from methods.networks.weights import needed, settings_of, unread, weights_in

FED = ("mean", "std", "interpolation", "resize_mode")
# What open_clip reads first in a folder with several files
FIRST = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin", "open_clip_pytorch_model.pth")


def clip_model(name: str, size: int | None = None) -> tuple[nn.Module, dict[str, Path], Fed]:
    """-> a model of open_clip, images and texts; its files of weights by name; how it is fed as published. Errors: InputError"""
    folder = Path(name).is_dir()
    architecture, _, weights = (f"local-dir:{name}", "", "") if folder else name.partition("/")
    if folder:
        tag, file, said = Path(name).name, weights_in(Path(name), FIRST), Path(name) / "open_clip_config.json"
        if not said.is_file() or "model_cfg" not in read_json(said):
            raise InputError(f"{name} holds no {said.name} of a model: save the network there as open_clip does for the hub")
        own = read_json(said)
        own, data = own["model_cfg"], own.get("preprocess_cfg", {})
    else:
        one_of("open_clip network", architecture, open_clip.list_models())
        own = open_clip.get_model_config(architecture)
        if Path(weights).suffix:
            data, tag, file = _common(architecture, weights), f"{architecture}/{Path(weights).name}", needed(Path(weights))
        else:
            data, tag, file = _tagged(architecture, weights), f"{architecture}/{weights}", _downloaded(architecture, weights)
    published = own["vision_cfg"].get("image_size", 224)
    published = published[0] if isinstance(published, (list, tuple)) and len(set(published)) == 1 else published
    if not isinstance(published, int):
        raise InputError(f"open_clip:{name} takes images that are no squares, which are not made here: name another network")
    given = {} if size is None else {"force_image_size": size}
    given |= {"device": "meta"} if planned() is not None else {}
    # Without weights from anywhere but the one file that is hashed
    model = open_clip.create_model(architecture, load_weights=False, pretrained_text=False, **given)
    if planned() is None:
        open_clip.load_checkpoint(model, str(file))
    data = {key: data.get(key, getattr(open_clip.transform.PreprocessCfg(), key)) for key in FED}
    numbers = {"mean": tuple(data["mean"]), "std": tuple(data["std"])}
    said = {"rule": data["resize_mode"], "interpolation": data["interpolation"], "activation": activations(model.visual)}
    return model, {file.name: file, **settings_of(name)}, Fed("open_clip", tag, published, **numbers, **said)


def _downloaded(architecture: str, tag: str) -> Path:
    """-> the file of the weights with a tag, which a plan does not fetch"""
    if not unread():
        return Path(open_clip.download_pretrained(open_clip.get_pretrained_cfg(architecture, tag)))
    planned().append(f"fetch    the weights of open_clip:{architecture}/{tag}, from the hub, unless they are there already")
    return Path("open_clip")


def _tagged(architecture: str, tag: str) -> dict[str, Any]:
    """-> open_clip's configuration of the weights with a tag. Errors: InputError, also where they have another activation"""
    one_of(f"weights of open_clip's {architecture}", tag, open_clip.list_pretrained_tags_by_model(architecture))
    found = open_clip.get_pretrained_cfg(architecture, tag)
    _same_activation(architecture, tag, found)
    return found


def _common(architecture: str, file: str) -> dict[str, Any]:
    """-> how all weights are fed that open_clip has for an architecture. Errors: InputError where they differ, or there are none"""
    found = [open_clip.get_pretrained_cfg(architecture, tag) for tag in open_clip.list_pretrained_tags_by_model(architecture)]
    if len({(bool(one.get("quick_gelu")), *(one.get(key) for key in FED)) for one in found}) != 1:
        raise InputError(
            f"open_clip:{architecture}/{file} does not say how its weights were fed, nor with which activation: put them into a folder "
            "with an open_clip_config.json, and name that as open_clip:FOLDER"
        )
    _same_activation(architecture, file, found[0])
    return found[0]


def _same_activation(architecture: str, weights: str, own: dict[str, Any]) -> None:
    """Errors: InputError where weights would be read with another activation than they were trained with: open_clip only warns"""
    built, trained = (bool(one.get("quick_gelu")) for one in (open_clip.get_model_config(architecture), own))
    kinds, other = ("GELU", "QuickGELU"), f"{architecture}-quickgelu" if trained else architecture.removesuffix("-quickgelu")
    if built != trained:
        right = f"open_clip:{other}/{weights}" if other != architecture and other in open_clip.list_models() else "another network"
        raise InputError(
            f"open_clip:{architecture}/{weights} would be built with {kinds[built]} where its weights were trained with {kinds[trained]}: "
            f"name {right}"
        )
