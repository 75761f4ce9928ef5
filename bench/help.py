"""The text of --help: every option with its value, and the comment behind its field. Importable without torch."""

import inspect
import json
import re
from dataclasses import fields

from omegaconf import DictConfig, OmegaConf

from bench.config import preset_names, sections, stream_names
from data.options import declared
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
        "usage: python bench/run.py [key=value ...] [--cfg job] [--config-dir DIR] [--help]",
        "       accelerate launch bench/run.py [key=value ...]    on several processes",
        "",
        f"method=      {' | '.join(METHODS)}",
        f"stream=      {' | '.join(stream_names())}",
        f"experiment=  {' | '.join(preset_names())}",
        "",
    ]
    for prefix, options, values in sections(config):
        said = comments(options)
        for entry in fields(options):
            if entry.name in ("defaults", "method", "stream", "checkpoint", "name"):
                continue
            value = json.dumps(OmegaConf.to_container(values)[entry.name])
            wide = declared(options, entry.name).get("range")
            lines.append(f"  {f'{prefix}{entry.name}={value}':<44} {said.get(entry.name, '')}{f' [{wide}]' if wide else ''}".rstrip())
    return "\n".join(lines)
