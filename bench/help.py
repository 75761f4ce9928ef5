"""The text of --help: every option with its value, and the comment behind its field. Importable without torch."""

import inspect
import json
import re
from dataclasses import fields

from omegaconf import DictConfig, OmegaConf

from bench.config import Checkpoint, RunConfig, method_config, preset_names, stream_names
from methods.config import METHODS


def comments(options: type) -> dict[str, str]:
    """-> the comment behind each field of a dataclass and its bases, from the source"""
    found: dict[str, str] = {}
    for base in reversed(options.__mro__[:-1]):
        for name, text in re.findall(r"^    (\w+):[^#\n]*#\s*(.*)$", inspect.getsource(base), re.MULTILINE):
            found[name] = text
    return found


def help_text(config: DictConfig) -> str:
    """-> every option of the chosen method and stream with its value and its comment"""
    lines = [
        "usage: accelerate launch bench/run.py [key=value ...] [--cfg job] [--config-dir DIR] [--help]",
        "",
        f"method=      {' | '.join(METHODS)}",
        f"stream=      {' | '.join(stream_names())}",
        f"experiment=  {' | '.join(preset_names())}",
        "",
    ]
    sections = [
        ("", RunConfig, config),
        ("checkpoint.", Checkpoint, config.checkpoint),
        ("method.", method_config(config.method.name), config.method),
    ]
    sections.append(("stream.", OmegaConf.get_type(config.stream), config.stream))
    for prefix, options, values in sections:
        said = comments(options)
        for entry in fields(options):
            if entry.name in ("defaults", "method", "stream", "checkpoint", "name"):
                continue
            value = json.dumps(OmegaConf.to_container(values)[entry.name])
            lines.append(f"  {f'{prefix}{entry.name}={value}':<44} {said.get(entry.name, '')}".rstrip())
    return "\n".join(lines)
