"""What an option may be, declared beside it and kept in its field's metadata: a range, what makes it idle, what it names.

    epochs: int = at_least(0, 10)  # passes over the data
    factor: float = above(0, 0.2, idle={"schedule": ("constant", "cosine")})  # of multistep

A subclass that gives the option another default keeps what its base declares. Importable without torch.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, asdict, field, fields, is_dataclass
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from data.errors import InputError, one_of

SET = "anything but null"  # of `idle`: the option does nothing wherever the other one is given at all


class Range(NamedTuple):
    low: float
    high: float = math.inf
    ends: str = "[]"  # whether the ends belong to it: [ ] do, ( ) do not

    def holds(self, number: float) -> bool:
        above = number >= self.low if self.ends[0] == "[" else number > self.low
        return above and (number <= self.high if self.ends[1] == "]" else number < self.high)

    def __str__(self) -> str:
        low = f"at least {self.low:g}" if self.ends[0] == "[" else f"above {self.low:g}"
        if self.high == math.inf:
            return low
        return f"{low} and {f'at most {self.high:g}' if self.ends[1] == ']' else f'below {self.high:g}'}"


def option(
    default: Any,
    *,
    range: Range | None = None,
    words: tuple[str, ...] = (),
    idle: Mapping[str, Any] | None = None,
    names: str | None = None,
    empty: bool = False,
) -> Any:
    """-> a dataclass field. default: a value, or list.

    range: of its number, or of each number in a list. words: the choices that there are. idle: other option -> the values (or SET) with
    which this one does nothing; giving it then is an error. names: "file" or "model", of which the content, and not the place, is part of
    a run's identity; or "bitsandbytes", whose release is. empty: it may be a text without words.
    """
    said = {"range": range, "words": words or None, "idle": idle, "names": names, "empty": empty or None}
    metadata = {key: value for key, value in said.items() if value is not None}
    return field(default_factory=list, metadata=metadata) if default is list else field(default=default, metadata=metadata)


def at_least(low: float, default: Any, **more: Any) -> Any:
    return option(default, range=Range(low), **more)


def above(low: float, default: Any, **more: Any) -> Any:
    return option(default, range=Range(low, ends="(]"), **more)


def between(low: float, high: float, default: Any, ends: str = "[]", **more: Any) -> Any:
    return option(default, range=Range(low, high, ends), **more)


def declared(options: type, name: str) -> Mapping[str, Any]:
    """-> the metadata of an option, from the nearest class that declares any"""
    own = (getattr(base, "__dataclass_fields__", {}).get(name) for base in options.__mro__)
    return next((entry.metadata for entry in own if entry is not None and entry.metadata), {})


def check(prefix: str, options: type, values: Mapping[str, Any]) -> None:
    """Errors: InputError for a number out of its range, for what is empty, and for an option that was given in vain."""
    for entry in (one for one in fields(options) if one.name in values):
        said, value = declared(options, entry.name), values[entry.name]
        if isinstance(value, str) and not value.strip() and "empty" not in said:
            raise InputError(f"{prefix}{entry.name}= is empty: give it a value, or leave it out")
        if "words" in said:
            one_of(f"{prefix}{entry.name}", value, said["words"])
        for number in _numbers(value):
            if not math.isfinite(number):
                raise InputError(f"{prefix}{entry.name}={value} is no number to compute with: give a finite one")
            if "range" in said and not said["range"].holds(number):
                raise InputError(f"{prefix}{entry.name}={value} must be {said['range']}: --help lists each option's range")
        other = None if value == default(entry) else idle_by(options, entry.name, values)
        if other:
            raise InputError(
                f"{prefix}{entry.name}={value} has no effect with {prefix}{other}={values[other]}: "
                f"leave it at {default(entry) if default(entry) is not None else 'null'}, or change {prefix}{other}"
            )


def idle_by(options: type, name: str, values: Mapping[str, Any]) -> str | None:
    """-> the other option whose value leaves this one without effect, if there is one"""
    found = declared(options, name).get("idle", {}).items()
    return next((other for other, idle in found if ((values[other] is not None) if idle is SET else (values[other] in idle))), None)


def naming(what: str, prefix: str, options: type, values: Mapping[str, Any]) -> dict[str, str]:
    """-> the options that name a "file", a "model" or what else was declared, by their full name, and the value of each"""
    named = (entry.name for entry in fields(options) if declared(options, entry.name).get("names") == what)
    return {f"{prefix}{name}": values[name] for name in named if values[name] is not None}


class Asked:
    """A configuration that remembers which of its options were read."""

    def __init__(self, config: Any):
        self._config, self._read = config, set()

    def __getattr__(self, name: str) -> Any:
        self._read.add(name)
        return getattr(self._config, name)


def plain(config: Any) -> dict[str, Any]:
    """-> the options of a configuration, whether OmegaConf's, a dataclass or `Asked`"""
    config = config._config if isinstance(config, Asked) else config
    return OmegaConf.to_container(config) if OmegaConf.is_config(config) else asdict(config)


def check_asked(prefix: str, asked: Asked, of: str, but: Iterable[str]) -> None:
    """Errors: InputError for an option that was given and that nobody read, `but` some; `of`: who should have, in words"""
    config, options = asked._config, OmegaConf.get_type(asked._config)
    for entry in fields(options) if is_dataclass(options) else ():
        value = getattr(config, entry.name)
        if entry.name not in asked._read and entry.name not in but and value != default(entry):
            raise InputError(f"{prefix}{entry.name}={value} has no effect on {of}, which never reads it: leave it out")


def default(entry: Field) -> Any:
    """-> what an option is where nobody gives it"""
    return entry.default_factory() if entry.default_factory is not MISSING else entry.default


def _numbers(value: Any) -> Iterable[float]:
    every = value if isinstance(value, Iterable) and not isinstance(value, (str, Mapping)) else [value]  # OmegaConf has lists of its own
    return [one for one in every if isinstance(one, (int, float)) and not isinstance(one, bool)]
