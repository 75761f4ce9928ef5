"""Folders of models as transformers saves them, on this machine or fetched from the hub, and what goes wrong with them in sentences."""

import contextlib
import importlib.util
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.errors import InputError
from methods.learning.sharding import planned
from methods.networks.weights import ELSEWHERE, TEXTS, hashes, is_pointer, lacks, unread, whole_model

PULL = "fetch them with `git lfs pull` in the folder"


def model_folder(name: str | None, option: str, config: str = "config.json") -> Path:
    """-> the folder that an option names: one on this machine, or a repository of the hub, fetched if it is not here.

    Weights are read as safetensors; where a repository has none, as its .bin files; a plan fetches none. Errors: InputError where there
    is none, it holds no `config`, it is gated, the hub cannot be reached, or what it holds is no whole model.
    """
    if not name:
        raise InputError(f"{option} is not set: name a folder or a repository of the hub")
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
            raise InputError(f"{option}={name}: there is no such folder{': name the one it lies in' if folder.is_file() else ''}")
        folder = _fetched(name, option)
    pointers = [file.name for end in TEXTS for file in folder.glob(end) if is_pointer(file)]
    if pointers:
        raise InputError(f"{option}={name} holds pointers of Git LFS in place of files ({min(pointers)}): {PULL}")
    if config == "config.json":
        whole_model(folder, f"{option}={name}")
    if not (folder / config).is_file():
        raise InputError(f"{option}={name}: the folder holds no {config}: name one that save_pretrained has written")
    return folder


def _fetched(name: str, option: str) -> Path:
    from huggingface_hub import errors, snapshot_download

    try:
        if unread():
            return Path(snapshot_download(name, allow_patterns=TEXTS, ignore_patterns=ELSEWHERE))
        folder = Path(snapshot_download(name, allow_patterns=[*TEXTS, "*.safetensors"], ignore_patterns=ELSEWHERE))
        if not weight_files(folder) and not adapter_file(folder).is_file():
            snapshot_download(name, allow_patterns=["*.bin"], ignore_patterns=ELSEWHERE)
        return folder
    except errors.GatedRepoError:
        raise InputError(
            f"{option}={name} is gated: accept its terms on its page of the hub, log in with `hf auth login`, or name a folder"
        ) from None
    except errors.RepositoryNotFoundError:
        raise InputError(f"{option}={name} is not on the hub, or is private: check its spelling, or log in with `hf auth login`") from None
    except errors.HFValidationError:
        raise InputError(f"{option}={name} is neither a folder nor the name of a repository of the hub: check its spelling") from None
    except OSError as error:  # the hub's own errors and the network's are of this kind, too
        why = type(error).__name__
        raise InputError(f"{option}={name} cannot be fetched from the hub ({why}): name a folder on this machine") from None


def weight_files(folder: Path) -> list[Path]:
    """-> the files of weights that transformers reads in a folder, also where some lack: one, or all that an index names"""
    config = folder / "config.json"
    own = read_json(config).get("transformers_weights") if config.is_file() else None
    for name in [own] if own else ["model.safetensors", "pytorch_model.bin"]:
        index = folder / (name if name.endswith(".index.json") else f"{name}.index.json")
        if (folder / name).is_file() and name != index.name:
            return [folder / name]
        if index.is_file():
            return [folder / file for file in sorted(set(read_json(index, "weight_map").values()))]
    return []


def adapter_file(folder: Path) -> Path:
    """-> the file of an adapter that peft reads in a folder"""
    usual, other = (folder / f"adapter_model.{ending}" for ending in ("safetensors", "bin"))
    return other if other.is_file() and not usual.is_file() else usual


def weight_hashes(folder: Path, name: str, role: str = "") -> dict[str, str]:
    """-> sha256 of every file of weights in a folder, by name, and of its settings; none in a plan"""
    title = f"{role}{Path(name).name}"
    return hashes({f"{title}/{file.name}": file for file in weight_files(folder)} | {f"{title}/settings": folder})


def need_weights(folder: Path, name: str, option: str) -> None:
    """See that a folder holds all of its weights; a plan notes what a run will lack. Errors: InputError, in a run."""
    files, said = weight_files(folder), f"{option}={name}"
    absent = [file for file in files if not file.is_file()]
    if len(absent) == len(files) and planned() is not None and not Path(name).expanduser().is_dir():
        planned().append(f"fetch    the weights of {said}, from the hub")
        return
    pointers = [file.name for file in files if file not in absent and is_pointer(file)]
    if not files:
        lack = f"{said}: the folder holds no weights: name one that save_pretrained has written"
    elif absent:
        lack = f"{said} lacks {len(absent)} of its files of weights ({absent[0].name}): name a complete folder"
    elif pointers:
        lack = f"{said} holds pointers of Git LFS in place of weights ({pointers[0]}): {PULL}"
    else:
        return
    lacks(lack)


def read_json(file: Path, key: str = "") -> dict[str, Any]:
    """-> what stands in a file of JSON, or under a key of it. Errors: InputError"""
    if file.is_file() and is_pointer(file):
        raise InputError(f"{file} is a pointer of Git LFS in place of text: fetch it with `git lfs pull` in its folder")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        found = found[key] if key else found
    except (OSError, ValueError, KeyError, TypeError):
        found = None
    if not isinstance(found, dict):
        raise InputError(f"{file} cannot be read: name a folder that save_pretrained has written")
    return found


@contextlib.contextmanager
def sentences(name: str, option: str) -> Iterator[None]:
    """What transformers raises while it loads a folder, as one sentence."""
    from safetensors import SafetensorError

    try:
        yield
    except InputError:
        raise
    except (pickle.UnpicklingError, EOFError):
        raise InputError(
            f"{option}={name} holds a .bin file that is torn or more than weights, and code in files is never run: "
            "name a folder with safetensors"
        ) from None
    except (ValueError, KeyError, RuntimeError, OSError, ImportError, AttributeError, SafetensorError) as error:
        text = str(error)
        if "trust_remote_code" in text:
            raise InputError(f"{option}={name} brings its own code, which is never run: name a model that transformers knows") from None
        if "Unrecognized" in text or "does not recognize" in text:
            raise InputError(f"{option}={name} is of an architecture that cannot be used here: name another model") from None
        if "async_io" in text:
            raise InputError("weights on a disk need libaio: install the system's libaio-dev, or use launch/zero3_offload.yaml") from None
        said = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__).rstrip(".:")
        raise InputError(f"{option}={name} cannot be loaded ({said}): name a folder that save_pretrained has written") from None


def load_tokenizer(folder: Path, name: str, option: str, **given: Any) -> Any:
    """-> the tokenizer of a folder. Errors: InputError"""
    from transformers import AutoTokenizer

    lacking = [package for package in ("sentencepiece", "google.protobuf") if importlib.util.find_spec(package) is None]
    if lacking and (folder / "tokenizer.model").is_file() and not (folder / "tokenizer.json").is_file():
        raise InputError(f"{option}={name} has a tokenizer.model alone, which needs sentencepiece: `pip install sentencepiece protobuf`")
    with sentences(name, f"the tokenizer of {option}"):
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **given)  # left open, transformers would ask at a terminal


def save_model(model: Any, folder: Path) -> None:
    """`save_pretrained`, whichever process calls it: by itself it writes on the first process of a run alone, and is silent on others.

    Errors: RuntimeError where it wrote no weights all the same.
    """
    model.should_save_on_this_rank = lambda is_main_process: True
    model.save_pretrained(folder)
    if not any(folder.glob("*.safetensors")):
        raise RuntimeError(f"transformers wrote no weights to {folder}")


def load_whole(kind: Any, folder: Path, name: str, option: str, unused: str = "\0", **given: Any) -> Any:
    """-> a model of a folder through `kind` (an Auto class of transformers). Errors: InputError, also where a weight is missing or spare.

    unused: a part of the names of weights that may be missing, as they are not used.
    transformers fills missing weights with random numbers and a warning, which would be a number nobody could explain.
    """
    _plain(read_json(folder / "config.json"), name, option)
    need_weights(folder, name, option)
    load = {"output_loading_info": True, "local_files_only": True, "trust_remote_code": False, "ignore_mismatched_sizes": True}
    with sentences(name, option):
        model, found = kind.from_pretrained(folder, **load, **given)
    missing = [key for key in sorted(found["missing_keys"]) if unused not in key]
    if missing:
        lack = f"lacks {len(missing)} of the weights of its architecture ({missing[0]}, …): name a complete folder"
        raise InputError(f"{option}={name} {lack}")
    spare = [key for key in sorted(found["unexpected_keys"]) if _inside(key, model)]
    wrong = [f"{key} {tuple(file)}" for key, file, _ in sorted(found["mismatched_keys"])] + spare
    if wrong:
        raise InputError(
            f"{option}={name} holds {len(wrong)} weights for which its config.json has no place ({wrong[0]}, …): put the config.json there "
            "that they were saved with, or name another folder"
        )
    return model


def _inside(key: str, model: Any) -> bool:
    """-> does the name of a weight that was not loaded lie in a part of the model that is there, and not in a head that is not used?"""
    parts = key.removeprefix(f"{model.base_model_prefix}.").split(".")
    there = {name for part in (model, model.base_model) for name, _ in part.named_children()}
    return parts[0] in there and len(parts) > 2 and parts[-1] in ("weight", "bias")  # others are buffers of older versions


def _plain(config: dict[str, Any], name: str, option: str) -> None:
    """Errors: InputError for weights that were saved quantized: what transformers makes of them depends on what is installed"""
    for part in (config, *(one for one in config.values() if isinstance(one, dict))):
        found = part.get("quantization_config") or part.get("compression_config")
        if found:
            by = found.get("quant_method", "a way of its own") if isinstance(found, dict) else found
            here = ", method.quantize=8 or 4 quantizes it" if option in ("method.decoder", "method.model") else ""
            raise InputError(
                f"{option}={name} holds weights that are quantized ({by}), not read here: name the same model as it was before{here}"
            )
