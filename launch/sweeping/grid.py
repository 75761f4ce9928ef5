"""What a sweep is asked for: lists of methods or experiments, streams and seeds, and grids over any option in Hydra's grammar."""

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from data.errors import InputError, unknown

# Of the whole sweep; and of each block of runs.
COMMON = ("plan", "jobs", "gpus", "slurm", "cluster", "gpus_per_node", "hours", "retries")
BLOCK = ("methods", "experiments", "streams", "seeds", "launch", "processes")
OWN = (*COMMON, *BLOCK)
NUMBERS = ("jobs", "gpus", "gpus_per_node", "retries", "processes", "seeds")
LISTS = ("methods", "experiments", "streams", "seeds")


@dataclass
class Block:
    """Runs that are started alike."""

    own: dict[str, list[str]]  # by the names of BLOCK
    options: dict[str, list[str]]  # of every run: key=value by key, one entry for each value that it takes


@dataclass
class Asked:
    common: dict[str, str] = field(default_factory=dict)  # by the names of COMMON
    blocks: list[Block] = field(default_factory=list)


@dataclass(frozen=True)
class Point:
    """One run of a grid."""

    overrides: list[str]
    label: str  # what tells it from the others, but the seed
    seed: int
    launch: str | None
    processes: int


def read(arguments: list[str]) -> Asked:
    """[sweep.yaml] key=value … -> what is asked for; what is said behind the file goes before what it says. Errors: InputError"""
    file, rest = ({}, arguments) if not arguments or "=" in arguments[0] else (_file(arguments[0]), arguments[1:])
    _once(rest)
    blocks = file.pop("runs", None)
    if blocks is not None and (not isinstance(blocks, list) or not blocks or not all(isinstance(block, dict) for block in blocks)):
        raise InputError("runs: in a sweep's file is a list of blocks, each of key: value")
    asked = Asked()
    for block in blocks or [{}]:
        for key in block:
            if key in COMMON:
                raise InputError(f"{key} is of the whole sweep: take it out of the block in runs:")
        own, options = {}, {}
        for key, values in _texts([_text(key, value) for key, value in {**file, **block}.items()] + rest).items():
            if key in COMMON:
                asked.common[key] = _single(key, values)
            elif key in BLOCK:
                own[key] = [value.partition("=")[2] for value in values]
            else:
                options[key] = values
        asked.blocks.append(_checked(Block(own, options)))
    _check(asked)
    return asked


def _file(name: str) -> dict[str, Any]:
    if not name.endswith((".yaml", ".yml")):
        raise InputError(f"'{name}' could not be read: write options as key=value, lists as methods=[icarl,lwm], a file as paper.yaml")
    try:
        found = OmegaConf.to_container(OmegaConf.load(name))  # which refuses a key that is given twice
    except OSError as error:
        raise InputError(f"the sweep's file {name} cannot be read ({error.strerror or error}): name another") from None
    except (YAMLError, UnicodeDecodeError, OmegaConfBaseException, RecursionError) as error:
        said = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise InputError(f"the sweep's file {name} is no YAML ({said}): write key: value, a line each") from None
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise InputError(f"the sweep's file {name} must hold key: value, a line each")
    return found


def _text(key: str, value: Any) -> str:
    """an entry of the file -> key=value as on the command line"""
    if isinstance(value, dict):
        raise InputError(f"{key}: in a sweep's file has keys of its own: write them with dots, as in method.lr: 0.1")
    return f"{key}={_value(value)}"


def _value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_value, value))}]"
    if value is None or isinstance(value, bool):
        return {True: "true", False: "false", None: "null"}[value]
    return f"'{value}'" if isinstance(value, str) and value.startswith("~") else str(value)  # else an error of Hydra's grammar


def _once(arguments: list[str]) -> list[str]:
    """Errors: InputError for a key that is given twice on one command line"""
    keys = [argument.partition("=")[0] for argument in arguments]
    for key in keys:
        if keys.count(key) > 1:
            raise InputError(f"{key}= is given twice: write all of its values into one, as in {key}=[a,b] or {key}=a,b")
    return arguments


def _texts(arguments: list[str]) -> dict[str, list[str]]:
    """key=value … -> by key, each single value that it takes, as key=value. The last one of a key holds. Errors: InputError"""
    found: dict[str, list[str]] = {}
    for argument in arguments:
        if "=" not in argument:
            raise InputError(f"'{argument}' could not be read: write options as key=value, lists as methods=[icarl,lwm]")
        try:
            (item,) = OverridesParser.create().parse_overrides([argument])
            key = item.key_or_group
            if item.is_sweep_override():
                values = [f"{item.get_key_element()}={value}" for value in item.sweep_string_iterator()]
            elif key in LISTS and isinstance(item.value(), list):
                values = [f"{key}={value}" for value in item.value()]
            else:
                values = [argument]
        except HydraException as error:
            how = "lists are written as methods=[icarl,lwm], grids as method.lr=0.1,0.01"
            raise InputError(f"'{argument}' could not be read ({str(error).splitlines()[0]}): {how}") from None
        if not values:
            raise InputError(f"'{argument}' names nothing: list at least one")
        found[key] = values
    return found


def _single(key: str, values: list[str]) -> str:
    if len(values) > 1:
        raise InputError(f"{key} takes one value, not {len(values)}: leave all but one out")
    return values[0].partition("=")[2]


def _checked(block: Block) -> Block:
    own = block.own
    for key in ("method", "experiment", "stream", "seed"):
        if key in block.options:
            raise InputError(f"a sweep takes {key}s=[...] in place of {key}=")
    if ("methods" in own) == ("experiments" in own):
        how = "methods=[ncm,finetune] (cilbench ls methods), or experiments=[cifar100_icarl] (cilbench ls experiments)"
        raise InputError(f"name what to run, {how}" if "methods" not in own else f"name either, and not both: {how}")
    for key in ("launch", "processes"):
        if key in own:
            _single(key, [f"{key}={value}" for value in own[key]])
    for key in set(own) & set(NUMBERS):
        if not all(value.isdigit() for value in own[key]):
            raise InputError(f"{key}={','.join(own[key])} must be whole numbers")
    if own.get("processes") == ["0"]:
        raise InputError("processes must be at least 1")
    if "launch" in own:
        own["launch"] = [str(_launch_file(own["launch"][0]))]
    return block


def _launch_file(name: str) -> Path:
    """-> a file of accelerate's, here or among those that come with the harness: zero3, launch/zero3.yaml. Errors: InputError"""
    ours = Path(__file__).resolve().parents[1]
    for path in (Path(name), ours.parent / name, ours / name, ours / f"{name}.yaml"):
        if path.is_file():
            return path.resolve()
    raise unknown("launch file", name, [path.stem for path in sorted(ours.glob("*.yaml"))])


def _check(asked: Asked) -> None:
    common = asked.common
    for key in set(common) & set(NUMBERS):
        if not common[key].isdigit() or (int(common[key]) < 1 and key != "retries"):
            raise InputError(f"{key}={common[key]} must be a whole number, at least {0 if key == 'retries' else 1}")
    try:
        if float(common.get("hours", 1)) <= 0:
            raise ValueError
    except ValueError:
        raise InputError(f"hours={common['hours']} must be a number above 0") from None
    if common.get("plan", "true") not in ("true", "false"):
        raise unknown("plan", common["plan"], ("true", "false"))
    if common.get("cluster", "slurm") not in ("slurm", "local"):
        raise unknown("cluster", common["cluster"], ("slurm", "local"))
    if "gpus" in common and "slurm" in common:
        raise InputError("gpus= and slurm= exclude each other: choose one")
    widest = max(int(block.own.get("processes", ["1"])[0]) for block in asked.blocks)
    if "gpus" in common and widest > int(common["gpus"]):
        raise InputError(f"processes={widest} a run are more than gpus={common['gpus']}: each process takes one")


def points(block: Block) -> list[Point]:
    """-> every run of a block, the seeds of a configuration one after the other"""
    kind = "experiment" if "experiments" in block.own else "method"
    streams = block.own.get("streams", [None] if kind == "experiment" else ["digits"])
    varied = [values for values in block.options.values() if len(values) > 1]
    fixed = [values[0] for values in block.options.values() if len(values) == 1]
    launch, processes = block.own.get("launch", [None])[0], int(block.own.get("processes", ["1"])[0])
    found = []
    for name, stream, *choices in itertools.product(block.own[f"{kind}s"], streams, *varied):
        chosen = [f"{kind}={name}", *([f"stream={stream}"] if stream else []), *fixed, *choices]
        label = " ".join([name, *([f"on {stream}"] if stream else []), *choices])
        for seed in block.own.get("seeds", ["0"]):
            found.append(Point([*chosen, f"seed={seed}"], label, int(seed), launch, processes))
    return found
