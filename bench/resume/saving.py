"""What checkpoint.py needs to write checkpoints and read them again: sentences for full disks, and whether what lies there can be used."""

import contextlib
import json
import os
import pickle
import shutil
import struct
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import SAFE_WEIGHTS_NAME, extract_model_from_parallel
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from bench.resume.processes import gone
from data.errors import InputError
from methods.learning.states import trained_state

ODD = (OSError, ValueError, LookupError, TypeError, AttributeError)  # what readers of damaged files raise
MANIFEST = {  # what a manifest must hold, beside schema and run
    "task": int,
    "learnt": bool,
    "phase": int,
    "step": int,
    "train_s": float,
    "resumed": int,
    "logged": int,
    "changed": list,
    "environment": dict,
    "files": dict,
}


def keep_trained(models: list[nn.Module], weights: list[dict[str, Tensor]], _folder: str) -> None:
    """Before accelerate saves: no frozen weights, and names that do not depend on the wrapper of several processes."""
    for number in range(len(weights)):
        weights[number] = trained_state(extract_model_from_parallel(models[number]))


def load_prepared(models: list[nn.Module], folder: str) -> None:
    """Before accelerate loads: the counterpart. Models in shares do not come here."""
    if models:
        extract_model_from_parallel(models.pop()).load_state_dict(load_file(Path(folder) / SAFE_WEIGHTS_NAME), strict=False)


def read_state(path: Path) -> dict[str, Any]:
    """-> what torch.save wrote. Errors: InputError where it holds more than tensors and plain values: such a file could run code."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, struct.error, ArithmeticError, AssertionError, MemoryError, *ODD, EOFError, RuntimeError) as error:
        raise InputError(
            f"{path} holds other things than tensors and plain values ({type(error).__name__}), and none are read: "
            "start anew with resume=never"
        ) from None


def sound(path: Path, check: Callable[[], bool]) -> bool:
    """-> does the check hold; if not, or if it fails, a warning says so"""
    try:
        good = check()
    except (*ODD, RecursionError):
        good = False
    if not good:
        warnings.warn(f"{path} is damaged or belongs to another run: it is left aside", stacklevel=2)
    return good


def well_formed(manifest: dict[str, Any]) -> bool:
    """-> does the manifest of a checkpoint hold what a run reads in it, and name the files that it needs?"""
    if any(type(manifest[name]) is not kind for name, kind in MANIFEST.items()):
        return False
    task, phase, files = manifest["task"], manifest["phase"], manifest["files"]
    if min(task, phase, manifest["step"], manifest["resumed"], manifest["logged"]) < 0 or not all(
        isinstance(name, str) for name in manifest["changed"]
    ):
        return False
    if (task or manifest["learnt"]) and "state.pt" not in files:
        return False
    return all(f"phase-{number}.safetensors" in files for number in range(phase))


def link(source: Path, target: Path) -> None:
    """One file under two names where the file system can; else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


@contextlib.contextmanager
def saving(folder: Path, work: Path | None = None) -> Iterator[None]:
    """Errors: InputError where the disk does not take what is written. What was written before stays; `work` is removed."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors have their own for a full disk
        if gone(error):
            raise
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise InputError(
            f"the run could not be saved in {folder} ({reason}): make room there and start the same command again; "
            "it goes on from its last checkpoint"
        ) from error


def other_data(folders: list[Path], run: str) -> bool:
    """-> is one of these checkpoints of this run (sha256 of its stream, then all else) but for the stream's content?"""
    for folder in folders:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            content, _, rest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["run"].partition(" ")
            if content != run.partition(" ")[0] and rest == run.partition(" ")[2]:
                return True
    return False
