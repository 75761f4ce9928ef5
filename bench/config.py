"""Options of a run: typed dataclasses in Hydra's ConfigStore, so that each option is defined once. Importable without torch."""

import difflib
import importlib
import os
import re
import sys
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from bench import outside
from bench.identity import UNHASHED, config_hash, hashed  # noqa: F401 - asked for here, too
from data.config import STREAMS, StreamConfig
from data.errors import InputError, one_of, unknown
from data.options import above, at_least, check
from data.sources import SOURCES
from methods.config import CONFIGS, ENCODER_SIZES, METHODS


@dataclass
class Checkpoint:
    minutes: float = at_least(0, 10.0)  # between checkpoints within a task; one is written after every task, too


@dataclass
class RunConfig:
    defaults: list[Any] = field(default_factory=lambda: [{"method": "gmm"}, {"stream": "digits"}, "_self_", {"experiment": None}])
    method: Any = MISSING  # the learner, one of the methods below
    stream: Any = MISSING  # the data set and how it is cut into tasks
    seed: int = at_least(0, 0)  # of initial weights, batches, augmentation and random exemplars; never of the split
    precision: str | None = None  # no | bf16 | fp16; null = what `accelerate launch` says, which then counts as if it stood here
    eval_batch_size: int = at_least(1, 64)  # rows a prediction batch
    features: str = "auto"  # of a frozen encoder: cache (a table on disk) | live (with each batch) | auto (cache where the table fits)
    results: str = "results"  # folder of the records
    resume: str = "auto"  # auto: go on with an interrupted run of the same options and seed | never: forget it
    checkpoint: Checkpoint = field(default_factory=Checkpoint)  # of an unfinished run
    timeout_minutes: float = above(0, 30.0)  # a process that waits longer than this for another one ends, and the run with it
    dry_run: bool = False  # print the tasks, the key and what is missing, and train nothing
    tracker: str = "none"  # none | wandb | tensorboard
    project: str = "cilbench"  # project of the tracker
    keep_states: bool = False  # keep what the method knew after each task beside the record, for `cilbench rescore`
    pictures: bool = False  # write what a method shows of its memory after each task as PNG beside the record, and to the tracker
    progress: bool = True  # progress bars on standard error
    plugins: list[str] = field(default_factory=list)  # modules to import first; they add to the registries


PRECISIONS = ("no", "bf16", "fp16")
FEATURES = ("auto", "cache", "live")
TRACKERS = ("none", "wandb", "tensorboard")
CHOSEN = {"method.name": "method", "stream.source": "stream"}  # a name that comes with the choice of what has that name
# What Hydra, OmegaConf and PyYAML raise beside their own errors where a preset or an argument is no configuration at all.
MALFORMED = (YAMLError, ValueError, TypeError, AttributeError, AssertionError, KeyError, IndexError, RecursionError, OSError)
PACKAGE = re.compile(r"\s*#\s*@package\s+_global_\s")  # Hydra looks for it at the very top
OURS = ("bench", "methods", "data", "launch", "tests")  # our packages, which stand first on the path


def resolve(overrides: list[str], config_dir: str | None = None) -> DictConfig:
    """Hydra overrides -> the resolved configuration. Errors: InputError, one sentence, for anything unknown or of a wrong type."""
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
    except HydraException as error:
        how = """write options as key=value, a value with special characters as 'key="~/my data"'"""
        raise InputError(f"an argument could not be read ({_first_line(error)}): {how}") from None
    _check_forms(parsed)
    given = {item.key_or_group: item.value() for item in parsed}
    load_plugins(given.get("plugins") or [])
    _register(given)
    search = [f"hydra.searchpath=[file://{_own_folder(config_dir, given)}]"] if config_dir else []
    choices = [text for text, item in zip(overrides, parsed, strict=True) if item.key_or_group in ("method", "stream", "experiment")]
    if not config_dir:
        _check_choices(given)
    _check_keys(parsed, _compose(choices + search))
    config = _compose(overrides + search)
    _check_own(config, given)
    one_of("resume", config.resume, ("auto", "never"))
    one_of("features", config.features, FEATURES)
    one_of("tracker", config.tracker, TRACKERS)
    for prefix, options, values in sections(config):  # as they were given
        check(prefix, options, values)
    config.results = os.path.expanduser(config.results)
    config.precision = outside.precision(config.precision)
    one_of("precision", config.precision, PRECISIONS)
    settle_encoder(config)
    return config


def once(overrides: list[str]) -> None:
    """Errors: InputError for an option that is given twice: who reads the command would have to know which one counts"""
    keys = [override.partition("=")[0] for override in overrides]
    twice = [key for key in keys if keys.count(key) > 1]
    if twice:
        said = " and ".join(override for override in overrides if override.partition("=")[0] == twice[0])
        raise InputError(f"{said} are one option given twice: leave one out")


def sections(config: DictConfig) -> list[tuple[str, type, DictConfig]]:
    """-> the parts of a configuration: how their options are called, the dataclass that declares them, and their values"""
    return [
        ("", RunConfig, config),
        ("checkpoint.", Checkpoint, config.checkpoint),
        ("method.", method_config(config.method.name), config.method),
        ("stream.", OmegaConf.get_type(config.stream), config.stream),
    ]


def settle_encoder(config: DictConfig) -> None:
    """Put the pixels that the packaged encoder gets of this stream's images in the place of null, where they are not the published ones."""
    method = config.method
    packaged = method.get("encoder") == "packaged" and method.get("vlm", "packaged") in ("packaged", "composed")
    if packaged and "encoder_size" in method and method.encoder_size is None:
        method.encoder_size = ENCODER_SIZES.get(config.stream.source)


def _compose(overrides: list[str]) -> DictConfig:
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module("bench.presets", version_base=None):
            config = compose("run", overrides)
            OmegaConf.resolve(config)
            return config
    except YAMLError as error:
        raise InputError(f"a preset is no YAML: {' '.join(str(error).split())}") from None
    except (HydraException, OmegaConfBaseException, *MALFORMED) as error:
        cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
        key = getattr(cause, "full_key", None)
        if "is not Optional" in str(cause):
            raise InputError(f"option {key} cannot be null: give it a value, or leave it out") from None
        raise InputError(f"{f'option {key}: ' if key else ''}{_first_line(cause)}: see --help for the options and their types") from None


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".:")


def load_plugins(modules: list[str]) -> None:
    """Import what the user named, and list (without importing) what installed packages offer."""
    for entry in entry_points(group="cilbench.methods"):
        METHODS.setdefault(entry.name, entry.value)
    for entry in entry_points(group="cilbench.sources"):
        SOURCES.setdefault(entry.name, entry.value)
    if modules and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # a script has its own folder there in its place
    for module in modules:
        _imported(module)


def _imported(module: str) -> ModuleType:
    """-> a plugin. Errors: InputError where it, or what it needs, cannot be imported"""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        top = (error.name or "").split(".")[0]
        if top in OURS and (error.name == top or isinstance(error, ModuleNotFoundError)):
            raise InputError(
                f"plugin '{module}' needs {error.name}, and cilbench has a package {top} of its own, which hides it: "
                f"move yours into a package of another name (my_package/{top}), and import it as my_package.{top}"
            ) from None
        raise InputError(f"plugin '{module}' could not be imported ({error}): install it or put its folder on PYTHONPATH") from None


def _register(given: dict[str, Any]) -> None:
    store = ConfigStore.instance()
    store.store("run", RunConfig)
    for name in METHODS:
        if name in CONFIGS or name == given.get("method"):
            store.store(name, method_config(name), group="method")
    for name in stream_names():
        store.store(name, STREAMS.get(name, StreamConfig(source=name)), group="stream")


def stream_names() -> list[str]:
    """-> the sources, and the named protocols over them"""
    return list(dict.fromkeys([*SOURCES, *STREAMS]))


def preset_names() -> list[str]:
    """-> the published settings that come with the harness"""
    return sorted(path.stem for path in (Path(__file__).parent / "presets" / "experiment").glob("*.yaml"))


def method_config(name: str) -> type:
    """-> the options of a method; an outside one is imported to see them"""
    if name in CONFIGS:
        return CONFIGS[name]
    module, attribute = METHODS[name].split(":")
    return getattr(_imported(module), attribute).Config


def _check_forms(parsed: list) -> None:
    """Errors: InputError for what Hydra understands and a run has no use for"""
    for item in parsed:
        key = item.key_or_group
        if item.is_add() or item.is_force_add() or item.is_delete():
            raise InputError(f"'{item.input_line}': every option is there and has a value: write {key}=value, without + or ~")
        if key in CHOSEN:
            raise InputError(f"'{item.input_line}' would leave the other options as they are: choose by {CHOSEN[key]}=NAME")
        if key.startswith("hydra."):
            raise InputError(f"'{item.input_line}' has no effect here: a run writes where results=DIR says, and reads --config-dir")
        if key == "plugins" and not isinstance(item.value(), list):
            raise InputError(f"'{item.input_line}' is no list: write plugins=[my_package.my_module]")


def _own_folder(config_dir: str, given: dict[str, Any]) -> Path:
    """-> the folder of the user's own YAML. Errors: InputError where there is none, or where ours would be read in place of a file"""
    folder = Path(config_dir).expanduser().resolve()
    if not folder.is_dir():
        raise InputError(f"--config-dir={config_dir} is no folder: name the one that holds experiment/")
    for file in (folder / "run.yaml", folder / "experiment" / f"{given.get('experiment')}.yaml"):
        if file.is_file() and (file.stem == "run" or file.stem in preset_names()):
            raise InputError(f"{file} would not be read, as a file of ours has that name: give it another below experiment/")
        if file.is_file() and not PACKAGE.match(file.read_text(encoding="utf-8", errors="replace")):
            raise InputError(f"{file} does not begin with the line `# @package _global_`, by which it may set any option: add it")
    return folder


def _check_own(config: DictConfig, given: dict[str, Any]) -> None:
    """Errors: InputError for what a preset says in vain"""
    if list(config.plugins) != (given.get("plugins") or []):
        raise InputError(f"plugins in a preset come too late to be imported: give plugins=[{','.join(config.plugins)}] with the command")
    if config.method.name not in METHODS or OmegaConf.get_type(config.method) is not method_config(config.method.name):
        raise InputError(f"method.name={config.method.name} in a preset leaves the other options as they are: choose by override /method")


def _check_choices(given: dict[str, Any]) -> None:
    for group, known in (("method", METHODS), ("stream", stream_names()), ("experiment", preset_names())):
        if given.get(group) is not None and str(given[group]) not in known:
            raise unknown(group, str(given[group]), known)


def _check_keys(parsed: list, config: DictConfig) -> None:
    known = _flat_keys(config)
    for item in parsed:
        key = item.key_or_group
        number = type(item.value()) in (int, float) and item.value() not in (0, 1)  # which OmegaConf takes for true
        if number and key in known and isinstance(OmegaConf.select(config, key), bool):
            raise InputError(f"'{item.input_line}' is neither true nor false: write one of them")
        if key in known or key in ("method", "stream", "experiment"):
            continue
        close = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean '{close[0]}'?" if close else "see --help for the options."
        raise InputError(f"unknown option '{key}': {hint}")


def _flat_keys(config: DictConfig, prefix: str = "") -> list[str]:
    keys = []
    for key in config:
        keys.append(f"{prefix}{key}")
        if OmegaConf.is_dict(config._get_node(key)):
            keys += _flat_keys(config[key], f"{prefix}{key}.")
    return keys
