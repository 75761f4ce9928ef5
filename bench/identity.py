"""What makes a number the number it is. The record, its path, the sweep, the leaderboard and resuming all ask here, and nowhere else.

Two runs are the same run where they agree in the stream (key, and sha256 of its content), the method's id, the options as they acted,
the code that computes (bench/code.py), the published models and the seed. Everything else may differ: places, trackers, processes.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from bench.code import code, mark
from data.code import version
from data.config import UNHASHED as STREAM_UNHASHED
from data.errors import InputError
from data.options import naming
from methods.config import LATER

# Options that change no number, and the seed.
UNHASHED = ("features", "results", "resume", "checkpoint", "timeout_minutes", "dry_run", "tracker", "project", "pictures", "progress")
UNHASHED += ("keep_states", "seed")
_begun: dict[str, tuple[dict[str, str], dict[str, Any]]] = {}  # by configuration; see `begun`


class Identity(NamedTuple):
    """Of a run. Its models are known once they are loaded, or made in their shape alone (launch/sweeping/runs.py)."""

    stream: str  # its key
    sha256: str  # of its content
    method: str  # id, with variant
    config_hash: str
    code: str  # digest
    seed: int
    models: str  # digest of the weights and settings of the published ones; empty where there are none

    @property
    def stem(self) -> str:
        """-> the name of its files: options, code, models where there are some, seed"""
        return "-".join([self.config_hash, self.code[:8], *([self.models[:8]] if self.models else []), f"s{self.seed}"])

    def path(self, results: str) -> Path:
        """-> where its record belongs"""
        return Path(results) / self.stream / self.method / f"{self.stem}.json"


def identity(config: DictConfig, stream: Any, method: str, weights: Mapping[str, str]) -> Identity:
    """config: resolved; stream: the TaskStream that it names; method: its id, with variant; weights: as `Method.weights` gives them

    Errors: InputError where no source is found
    """
    named, made = _begun[str(config)] = contents(config), made_by(config)
    acted = options_hash(OmegaConf.to_container(config), named)
    return Identity(stream.key, stream.sha256, method, acted, made["digest"], config.seed, models(weights))


def begun(config: DictConfig) -> tuple[dict[str, str], dict[str, Any]]:
    """-> `contents` and `made_by` as they were when the run's identity was asked for; on the way files may change and models move"""
    return _begun.get(str(config)) or (contents(config), made_by(config))


def models(weights: Mapping[str, str]) -> str:
    """-> digest of what a method starts from, empty where that is nothing"""
    return hashlib.sha256(repr(sorted(weights.items())).encode()).hexdigest() if weights else ""


def shown(weights: Mapping[str, str]) -> str:
    """-> how tables name what a method starts from: its files of weights; the settings beside them go without saying"""
    return ", ".join(name for name in weights if not name.endswith("/settings"))


def of_record(record: dict[str, Any]) -> Identity:
    """-> the identity of a record; without code where it was made before code had an identity"""
    stream, made = record["stream"], record.get("code") or {}
    acted, digest = _acted(record), made.get("digest", "")
    return Identity(stream["key"], stream["sha256"], record["method"], acted, digest, record["seed"], models(record["weights"]))


def made_by(config: DictConfig) -> dict[str, Any]:
    """-> the code of a run, as in its record"""
    return code(config.method.name, config.stream.source, config.get("plugins") or ())


def row(record: dict[str, Any]) -> dict[str, str]:
    """-> that in which the records of one row of a table agree: all of the identity but the seed, and the pretrained weights"""
    found = of_record(record)
    weights = json.dumps(record["weights"], sort_keys=True)
    return {"stream": found.stream, "method": found.method, "config_hash": found.config_hash, "weights": weights, "code": found.code}


def code_mark(record: dict[str, Any]) -> str:
    """-> how tables name the code of a record"""
    return mark(record.get("code"))


def guard(path: Path, found: Identity, existing: dict[str, Any] | None) -> None:
    """Errors: InputError where the record that lies at a run's path is of another run, which would be lost."""
    if existing is None:
        return
    theirs = of_record(existing)
    differ = [name for name, one, other in zip(Identity._fields, found, theirs, strict=True) if one != other]
    if differ:
        words = {"sha256": "data (sha256)", "models": "published models", "config_hash": "options"}
        said = ", ".join(words.get(name, name) for name in differ)
        raise InputError(f"{path} is the record of another {said}, and would be lost: move it away, or choose another results=DIR")


def hashed(config: dict[str, Any], contents: dict[str, str] | None = None) -> dict[str, Any]:
    """-> the options that can change a number, without the seed. contents: as below, which count in the place of names"""
    plain = {key: value for key, value in config.items() if key not in UNHASHED}
    plain["precision"] = None if plain.get("precision") == "no" else plain.get("precision")  # as records from before it was resolved say it
    if isinstance(plain.get("stream"), dict):
        plain["stream"] = {key: value for key, value in plain["stream"].items() if key not in STREAM_UNHASHED}
    if isinstance(plain.get("method"), dict):
        later = LATER.get(plain["method"].get("name"), {})
        plain["method"] = {key: value for key, value in plain["method"].items() if key not in later or value != later[key]}
    for name, counts in (contents or {}).items():
        section, _, option = name.partition(".")
        if isinstance(plain.get(section), dict) and option in plain[section]:
            plain[section] = {**plain[section], option: counts}
    return plain


def config_hash(config: DictConfig) -> str:
    """-> 12 hex digits over all options that can change a number, but for the seed; of a file that an option names its content counts"""
    return options_hash(OmegaConf.to_container(config), contents(config))


def options_hash(config: dict[str, Any], contents: dict[str, str]) -> str:
    """-> as above. config, contents: as a record has them"""
    plain = hashed(config, contents)
    same = json.loads(json.dumps(plain), parse_float=lambda text: float(text) + 0.0)  # -0.0 is 0.0
    return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:12]


def contents(config: DictConfig) -> dict[str, str]:
    """-> by the options that name one: of a file the sha256 of its lines, of a model on this machine its name without its place (what it
    holds is among `models`), of bits the library that rounds to them. None for what cannot be read: its reader says so.
    """
    found = {}
    for section in ("method", "stream"):
        kind = OmegaConf.get_type(config[section])
        if kind is dict:
            continue
        for name, place in naming("file", f"{section}.", kind, config[section]).items():
            try:
                found[name] = _lines_sha256(Path(place).expanduser())
            except (OSError, UnicodeDecodeError):
                continue
        for name, bits in naming("bitsandbytes", f"{section}.", kind, config[section]).items():
            found[name] = f"{bits} bits, bitsandbytes {version('bitsandbytes')}"
        every = naming("model", f"{section}.", kind, config[section]).items()
        found |= {name: said for name, model in every if (said := _placeless(model)) != model}
    return found


def _placeless(model: str) -> str:
    """-> `timm:/a/vit` and `timm:ARCHITECTURE/a/file` as `timm:vit` and `timm:ARCHITECTURE/file`; a published model's name as it is

    Errors: InputError where a folder is named by dots alone.
    """
    library, name = re.fullmatch(r"((?:timm:|open_clip:|hf:)?)(.*)", model, re.DOTALL).groups()
    architecture, _, file = name.partition("/")
    if Path(name).name in ("", ".."):
        raise InputError(f"'{model}' names a folder without its name, which counts: write its path, as in /models/NAME or ../NAME")
    if os.path.isdir(os.path.expanduser(name)):
        return library + os.path.basename(os.path.abspath(name))
    weights = os.path.isfile(file) or file.endswith((".safetensors", ".bin", ".pth", ".pt"))  # a plan's may still be missing
    return f"{library}{architecture}/{os.path.basename(file)}" if library and weights else model


def _lines_sha256(path: Path) -> str:
    """Of the lines of a file, or of those in a folder with their names; spaces around them and empty ones do not count."""
    digest = hashlib.sha256()
    every: Iterable[Path] = sorted(one for one in path.iterdir() if one.is_file()) if path.is_dir() else [path]
    for file in every:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        digest.update(repr((file.name if path.is_dir() else "", lines)).encode())
    return digest.hexdigest()


def _acted(record: dict[str, Any]) -> str:
    """-> the options' hash; where the precision came from outside of the options, as it could before it was resolved, with it"""
    ran = record["environment"].get("mixed_precision") or "no"
    return record["config_hash"] if record["config"].get("precision") or ran == "no" else f"{record['config_hash']}-{ran}"
