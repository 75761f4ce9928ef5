"""The record of a run: one JSON file that says what was run, on what, and what came out."""

import hashlib
import importlib.metadata
import json
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import outside
from bench.code import well_formed
from bench.identity import hashed
from data.caching.cache import atomic
from data.errors import InputError

SCHEMA = 2
READ = {1: "made before code identity", 2: "with the digest of the code that made it"}  # the versions that are read

# Every top-level key, and what stands there. Fields are added freely; renaming one raises SCHEMA.
FIELDS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "schema": (int, "version of this layout"),
    "method": (str, "method id, with its variant"),
    "scoring": (str, "the rule by which an image gets its class: argmax, nearest mean, …"),
    "stream": (
        dict,
        "key, sha256, dataset, scenario, tasks (classes, or domains, in each), class_names and order (by arrival), "
        "intake (images read by split and ending, and what was left out, by reason; null where there are no files to choose from)",
    ),
    "seed": (int, "seed of initial weights, batches, augmentation and random exemplars"),
    "config": (dict, "every option, resolved"),
    "config_hash": (str, "over the options that can change a number, without the seed"),
    "contents": (
        dict,
        "by the options that name one: of a file the sha256 of its lines, of a model's folder its name, of bits a library; these count",
    ),
    "code": (dict, "what computed: digest, files (of ours, by module) and versions (of libraries); see bench/code.py"),
    "counts": (
        dict,
        "correct [T][<=T] right answers on task j after task i, total [T] rows, task_il_correct, invalid [T] and head_correct or null",
    ),
    "metrics": (dict, "see bench/metrics.py; fractions in 0..1"),
    "memory": (
        dict,
        "kept from the past after the last task: items and bytes of all kinds, by_kind {items, bytes, budget}, "
        "budget (most items of the kinds that have one, which by_kind says; or null); per_task: bytes after each",
    ),
    "parameters": (dict, "total, trainable"),
    "time": (dict, "train_s, evaluate_s, total_s, per_task [T] of {train_s, evaluate_s}; seconds"),
    "peak_memory_bytes": (int, "most memory of the main process: on the accelerator where there is one, else resident"),
    "weights": (dict, "sha256 of every pretrained file, by name"),
    "models": (
        dict,
        "each published model by its part (encoder, backbone, decoder, text encoder): library, tag, size, crop, rule, interpolation, mean, "
        "std, range and activation as it was fed, differs (where deliberately not as published), the text around the image, sha256 by file",
    ),
    "environment": (
        dict,
        "git, dirty, python, packages, device, threads, world_size, distributed_type, mixed_precision, variables (of the last bits), "
        "features (of a frozen encoder, by split: cache or live), resumed (times), changed "
        "(what an interrupted run met anew when it went on: python or packages), "
        "states (sha256 of what was kept after each task, with keep_states=true)",
    ),
    "rescored": (dict, "of a record that `cilbench rescore` wrote: from (the digest of the run's own record), config_hash, environment"),
    "limited": (bool, "true where the stream was cut short by a limit or scored on validation rows"),
    "complete": (bool, "true where every task was learnt and scored"),
    "started": (str, "UTC, ISO 8601"),
    "finished": (str, "UTC, ISO 8601"),
    "digest": (str, "sha256 of the record without this key"),
}
NUMBER = (int, float)
PARTS: dict[str, dict[str, type | tuple[type, ...]]] = {  # what every reader takes for granted in a part
    "stream": {"key": str, "sha256": str, "dataset": str, "tasks": list},
    "config": {"method": dict, "stream": dict},
    "counts": {"correct": list, "total": list},
    "metrics": {"per_task_accuracy": list},
    "memory": {"items": int, "bytes": int, "by_kind": dict},
    "parameters": {"total": int, "trainable": int},
    "time": {"train_s": NUMBER, "evaluate_s": NUMBER, "total_s": NUMBER, "per_task": list},
    "environment": {"world_size": int},
}
# Fields that schema 1 gained after its first records or never had.
LATER = ("scoring", "models", "rescored", "code", "contents")
OPTIONAL = ("models", "rescored")  # fields that not every record has
# What may differ between two runs of one configuration and seed; everything else must agree.
VOLATILE = ("time", "peak_memory_bytes", "environment", "rescored", "started", "finished", "digest")
PACKAGES = ("torch", "torchvision", "transformers", "accelerate", "deepspeed", "timm", "open_clip_torch", "peft", "numpy", "safetensors")
PACKAGES += ("tokenizers", "gguf", "bitsandbytes", "pillow")


def digest(record: dict[str, Any]) -> str:
    plain = {key: value for key, value in record.items() if key != "digest"}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def stable(record: dict[str, Any]) -> dict[str, Any]:
    """-> the part that two runs of one configuration and seed must share. Options that change no number are left out."""
    kept = {key: value for key, value in record.items() if key not in VOLATILE}
    kept["config"] = hashed(record["config"], record.get("contents"))
    kept["stream"] = {key: value for key, value in record["stream"].items() if key != "intake"}  # what lies beside the data differs
    return kept


def find(place: Path) -> list[Path]:
    """-> the records under a folder, in order, or the one named; not what unfinished runs and trackers keep beside them"""
    if not place.is_dir():
        return [place]
    inside = [(path, path.relative_to(place).parts) for path in sorted(place.rglob("*.json"))]
    return [path for path, parts in inside if not any(part.startswith(".") or part == "wandb" for part in parts)]


def write(record: dict[str, Any], path: Path) -> dict[str, Any]:
    """Add the digest, check, and write atomically. -> the record as written"""
    record = json.loads(json.dumps(record, allow_nan=False))  # as it will be read back
    record["digest"] = digest(record)
    problems = validate(record)
    if problems:
        raise RuntimeError(f"refusing to write a wrong record: {'; '.join(problems)}")
    with atomic(path) as work:
        work.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return record


def read(path: Path) -> dict[str, Any]:
    """-> a record. Errors: InputError where it is no record, of another schema, or was edited."""
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is no record ({error.__class__.__name__}): run it again") from None
    problems = validate(record)
    if problems:
        raise InputError(f"{path} is no valid record: {problems[0]}")
    return record


def existing(path: Path, begun: bool = False) -> dict[str, Any] | None:
    """-> the record that lies there, None where there is none. begun: a former attempt at the same run was interrupted

    Errors: InputError where it is another file, or one lies beside it that no run is known to have written: none is ever overwritten.
    """
    if path.exists():
        return read(path)
    beside = [] if begun else sorted(path.parent.glob(f"{path.stem}-*"))
    if beside:
        raise InputError(
            f"{beside[0]} lies where this run would write, and no record says whose it is: move it away, or choose another results=DIR"
        )
    return None


def validate(record: Any) -> list[str]:
    """-> what is wrong, nothing if the record is sound"""
    if not isinstance(record, dict):
        return ["it is no JSON object"]
    schema = record.get("schema")
    if type(schema) is not int or schema not in READ:
        return [f"schema is {schema!r} where {' and '.join(map(str, READ))} are read"]
    problems = [f"'{key}' is missing" for key in FIELDS if key not in record and key not in (LATER if schema == 1 else OPTIONAL)]
    problems += [f"'{key}' is no {_name(kind)}" for key, (kind, _) in FIELDS.items() if key in record and not isinstance(record[key], kind)]
    if problems:
        return problems
    for part, needed in PARTS.items():
        problems += [f"'{part}' has no '{key}'" for key, kind in needed.items() if not isinstance(record[part].get(key), kind)]
    if problems:
        return problems
    if schema > 1 and not well_formed(record["code"]):
        return ["'code' is malformed"]
    if record["digest"] != digest(record):
        return ["it was changed after it was written (its digest does not match)"]
    try:
        return _check_counts(record["counts"])
    except (TypeError, AttributeError):
        return ["'counts' is malformed"]


def _check_counts(counts: dict[str, Any]) -> list[str]:
    total = counts.get("total")
    for name in ("correct", "task_il_correct", "head_correct"):
        for i, row in enumerate(counts.get(name) or []):
            if len(row) > len(total) or any(not 0 <= right <= total[j] for j, right in enumerate(row)):
                return [f"counts.{name}[{i}] does not fit counts.total"]
    return []


def _name(kind: type | tuple[type, ...]) -> str:
    return kind.__name__ if isinstance(kind, type) else " or ".join(one.__name__ for one in kind)


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def environment(accelerator: Any) -> dict[str, Any]:
    """-> where the run took place"""
    import torch
    from PIL import features

    root = Path(__file__).resolve().parent.parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "--no-optional-locks", "-C", str(root), *arguments], capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    versions["libjpeg"] = features.version("libjpeg_turbo") or features.version("jpg")  # builds of one Pillow decode by several
    device = torch.cuda.get_device_name() if accelerator.device.type == "cuda" else platform.processor() or platform.machine()
    changed = git("status", "--porcelain", "--untracked-files=no")
    return {
        "git": git("rev-parse", "HEAD"),
        "dirty": None if changed is None else bool(changed),
        "python": platform.python_version(),
        "packages": versions,
        "device": f"{accelerator.device.type} ({device})",
        "threads": torch.get_num_threads(),
        "world_size": accelerator.num_processes,
        "distributed_type": accelerator.distributed_type.value,
        "mixed_precision": accelerator.mixed_precision,
        "variables": outside.watched(),
    }


def lasting(environment: dict[str, Any]) -> dict[str, Any]:
    """-> what of an environment should be the same from the start of a run to its end"""
    return {"python": environment["python"], **environment["packages"]}  # our own code is in the name


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """-> the names of what is not the same in both; an earlier version of this harness may have noted less"""
    return [name for name in before if name in now and before[name] != now[name]]
