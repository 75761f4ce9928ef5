"""The runs of a sweep: what of them has a record, what the others will take, and how one is started."""

import hashlib
import os
import re
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench import outside
from bench import record as records
from bench.config import resolve
from bench.identity import Identity, config_hash, contents, identity, made_by, of_record
from data.errors import InputError
from launch.sweeping.grid import Asked, Point, points

DRIVER = Path(__file__).resolve().parents[2] / "bench" / "run.py"
CHOOSING = ("root", "test_list", "shot_list", "classes", "corrupt")  # of data.config.UNHASHED
PRESETS = DRIVER.parent / "presets" / "experiment"
LAUNCHER = [sys.executable, "-m", "launch.start"]  # accelerate launch, with the exit code of what it launched
TWO = Path(__file__).resolve().parents[1] / "cpu2.yaml"


@dataclass
class Run:
    point: Point
    method: str  # as the configuration names them
    stream: str
    folder: Path  # holds the records of all methods, over all streams
    name: str  # of the record's file, but for its models
    places: str  # digest of the options that name data or models by their place, which is not in `name`; empty where none does
    found: Identity | None  # of the record that it has already
    seconds: float | None  # as long as earlier runs took; None if there were none
    memory: int | None  # bytes at the peak of earlier ones
    told: str = ""  # which earlier ones, or why there is no estimate
    planned: str = field(default_factory=records.now)

    @property
    def done(self) -> bool:
        return self.found is not None

    @property
    def key(self) -> str:
        """-> what tells it from the other runs of its folder"""
        return "-".join(filter(None, (self.method, self.stream, self.name.removesuffix(".json"), self.places)))

    @property
    def group(self) -> tuple:
        """-> what it shares with the runs that differ in the seed alone"""
        return self.folder, self.stream, self.name.partition("-s")[0], self.places

    @property
    def seed(self) -> int:
        return self.point.seed

    @property
    def title(self) -> str:
        return f"{self.point.label}, seed {self.seed}"

    @property
    def log(self) -> Path:
        return self.folder / "sweep" / f"{self.key}.log"


def full_identity(config: DictConfig) -> Identity:
    """-> what run a configuration is, for which its data are opened and its models hashed. Errors: InputError where they are not there"""
    from accelerate import Accelerator  # late: most sweeps do without
    from accelerate.state import AcceleratorState

    from data.source import load
    from data.stream import TaskStream
    from methods.base import method_class
    from methods.learning.sharding import weightless
    from methods.networks.weights import naming

    stream, first = TaskStream(load(config.stream), config.stream), not AcceleratorState._shared_state
    try:
        with weightless(), naming():
            method = method_class(config.method.name)(config.method, Accelerator(cpu=True))
            return identity(config, stream, method.id(), method.weights())
    finally:
        if first:
            AcceleratorState._reset_state(reset_partial_state=True)  # what comes next in this process may choose another precision


def plan(asked: Asked) -> list[Run]:
    """-> every run, in order, none twice. Errors: InputError for any wrong option, before anything runs."""
    outside.check()
    runs: dict[tuple[Path, str], Run] = {}
    known: dict[Path, list[dict[str, Any]]] = {}
    for point in (point for block in asked.blocks for point in points(block)):
        with outside.launched(point.launch):
            config = resolve(point.overrides)
        folder = Path(config.results)
        if folder not in known:
            known[folder] = [found for path in folder.glob("*/*/*.json") if (found := _read(path))]
        mine, code, plain = config_hash(config), made_by(config)["digest"], OmegaConf.to_container(config, resolve=True)
        exact = [one for one in known[folder] if of_record(one)[3:5] == (mine, code)]
        like = [one for one in known[folder] if all(one["config"].get(part) == plain[part] for part in ("method", "stream"))]
        same = [one for one in known[folder] if one["config"]["method"].get("name") == config.method.name and _alike(one, plain)]
        earlier = exact or like or same
        told = _told(earlier, "" if exact else ", of other code" if like else ", with other options") if earlier else _unknown(point)
        near = [one for one in exact if one["seed"] == config.seed and one["complete"]]
        this = full_identity(config) if near else None  # opens the data, which takes a while: only where it depends on them
        found = this if this in map(of_record, near) else None
        seconds = statistics.median([one["time"]["total_s"] for one in earlier]) if earlier else None
        memory = max((one["peak_memory_bytes"] for one in exact or like), default=None)
        name = f"{mine}-{code[:8]}-s{config.seed}.json"
        run = Run(
            point, config.method.name, config.stream.source, folder, name, placed(plain, contents(config)), found, seconds, memory, told
        )
        runs.setdefault((folder, run.key), run)
    return list(runs.values())


def placed(config: dict[str, Any], contents: dict[str, str]) -> str:
    """-> 8 digits over the options that choose data and models by what lies there, and so are not in the options' hash

    contents: by the options that name a file or a model, as a record has it
    """
    stream, models = config["stream"], [name.partition(".")[2] for name in contents if name.startswith("method.")]
    said = {name: stream[name] for name in CHOOSING if stream.get(name) not in (None, "stop")}
    said |= {f"method.{name}": config["method"].get(name) for name in models}
    return hashlib.sha256(repr(sorted(said.items())).encode()).hexdigest()[:8] if said else ""


def _alike(record: dict[str, Any], config: dict[str, Any]) -> bool:
    return record["config"]["stream"] == config["stream"]


def _told(earlier: list[dict[str, Any]], how: str) -> str:
    places = sorted({f"{one['environment']['world_size']} × {one['environment'].get('device')}" for one in earlier})
    return f"{len(earlier)} record{'s' if len(earlier) > 1 else ''} on {' and '.join(places)}{how}"


def _unknown(point: Point) -> str:
    """-> why there is no estimate, with that which a preset's file holds"""
    names = [one.partition("=")[2] for one in point.overrides if one.startswith("experiment=")]
    text = " ".join(
        line.lstrip("# ")
        for name in names
        if (file := PRESETS / f"{name}.yaml").exists()
        for line in file.read_text(encoding="utf-8").splitlines()
    )
    found = re.search(r"Estimated GPU-hours, (.*?)\. Formula", text)
    return "no earlier record" + (f"; as published, the preset says GPU-hours {found[1]}" if found else "")


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return records.read(path)
    except InputError:
        return None


def record_of(run: Run) -> dict[str, Any] | None:
    """-> its record, the newest where it started from several versions of a published model; None where it has none, or an older one of
    other data or models in the same place"""
    every = [one for path in run.folder.glob(f"*/*/{run.name.replace('-s', '*-s')}") if (one := _read(path)) and one["seed"] == run.seed]
    if run.found is not None:
        found = [one for one in every if of_record(one) == run.found]
    else:
        mine = [one for one in every if placed(one["config"], one.get("contents") or {}) == run.places]
        found = [one for one in mine if one["finished"] >= run.planned]
    return max(found, key=lambda record: record["finished"], default=None)


def show(runs: Sequence[Run], console: Console, devices: dict[tuple, str] | None = None) -> None:
    """Print what is planned, and what it takes as far as earlier records tell; devices: what each configuration's plan says of a device"""
    table = Table(title="sweep", title_justify="left")
    for name in ("run", "seed", "processes", "state", "estimate", "from", *(["device, by its plan"] if devices else []), "peak of records"):
        table.add_column(name)
    for run in runs:
        state = "has a record" if run.done else "to run"
        memory = "–" if run.memory is None else f"{run.memory / 2**30:.2f} GiB"
        planned = [Text(devices[run.group])] if devices else []
        cells = (str(run.seed), str(run.point.processes), state, duration(run.seconds), Text(run.told), *planned, memory)
        table.add_row(Text(run.point.label), *cells)
    console.print(table)
    waiting = [run for run in runs if not run.done]
    known = [run for run in waiting if run.seconds is not None]
    hours = sum(run.seconds * run.point.processes for run in known) / 3600
    said = f"{len(waiting)} of {len(runs)} to run, {duration(sum(run.seconds for run in known))} one after the other"
    said += f", {hours:.1f} hours of a process" if hours >= 0.1 else ""
    console.print(said + (f" and {len(waiting) - len(known)} unknown" if len(waiting) > len(known) else ""))


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def command(point: Point, *more: str, machines: int = 1, gpus: bool | None = None) -> list[str]:
    """-> what starts a run: plainly, or by accelerate where it has several processes or a launch file

    machines: of a multi-node run, where this one's number and the first one's name stand as MACHINE_RANK and FIRST_MACHINE
    gpus: will there be some? None looks for them here
    """
    own = ["progress=false", *more]
    run = [str(DRIVER), *(one for one in point.overrides if one.partition("=")[0] not in {each.partition("=")[0] for each in own}), *own]
    if point.processes == 1 and point.launch is None:
        return [sys.executable, *run]
    if gpus is None:
        import torch  # late: the rest of a sweep does without

        gpus = torch.cuda.is_available()
    file = point.launch or (None if gpus else str(TWO))
    start = [*LAUNCHER, *(["--config_file", file] if file else ["--multi_gpu"]), "--num_processes", str(point.processes)]
    if machines > 1:
        start += ["--num_machines", str(machines), "--machine_rank", "MACHINE_RANK", "--main_process_ip", "FIRST_MACHINE"]
    return [*start, "--main_process_port", "29500" if machines > 1 else "0", *run]


def environment(gpus: Sequence[str] | None = None) -> dict[str, str]:
    """-> that of a run: it finds the launcher, and sees its own GPUs where some are given"""
    path = os.pathsep.join(filter(None, (str(DRIVER.parents[1]), os.environ.get("PYTHONPATH"))))
    return os.environ | {"PYTHONPATH": path} | ({} if gpus is None else {"CUDA_VISIBLE_DEVICES": ",".join(gpus)})
