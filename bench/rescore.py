"""Score a finished run again by another rule, without training it again.  cilbench rescore RECORD method.scoring=likelihood

The run must have been made with keep_states=true. What may change are the options that its method names as acting at prediction
alone, so that the new record is the one that a run trained with them would have written; it says what it was scored from.
"""

import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from omegaconf import DictConfig, OmegaConf

from bench import record as records
from bench.config import method_config, once, resolve
from bench.engine import Attempt, check_place, checkpoints_of, keep, make_accelerator, make_method, plain, report, score_task, settled
from bench.evaluation import Scores
from bench.identity import UNHASHED, config_hash, identity, made_by
from bench.resume.checkpoint import Stopped
from bench.resume.saving import saving
from bench.resume.states import kept_states, method_state
from bench.tracking import Tracking
from data.config import UNHASHED as STREAM_UNHASHED
from data.errors import InputError
from data.options import check, default, idle_by
from data.source import load
from data.stream import TaskStream
from methods.base import method_class
from methods.learning.sharding import weightless
from methods.networks.weights import naming


def rescore(path: Path, overrides: list[str], accelerator: Accelerator | None = None) -> tuple[dict[str, Any], Path]:
    """-> the new record and its path. On every rank. Errors: InputError; Stopped where a signal asked for it."""
    before, started, clock = records.read(path), records.now(), time.perf_counter()
    config = changed(path, before, overrides)
    if (before.get("code") or {}).get("digest") != made_by(config)["digest"]:
        raise InputError(f"{path} was made by other code than this, so that its scores would be of neither: run it again")
    states = kept_states(path, before)
    accelerator = accelerator or make_accelerator(config)
    stream = TaskStream(load(config.stream), config.stream)
    if stream.sha256 != before["stream"]["sha256"]:
        raise InputError(f"the data are not those of {path} (their sha256 is another): name their folder with stream.root=DIR")
    check_place(config, accelerator, stream)
    check_models(path, before, config, accelerator)
    method = make_method(config, accelerator, stream)
    this = identity(config, stream, method.id(), method.weights())
    target = this.path(config.results)
    if target.exists():
        raise InputError(f"{target} is scored so already: remove it to score it again")
    environment = records.environment(accelerator)
    checkpoints = checkpoints_of(target, config, accelerator, stream, environment)
    with checkpoints.opened(), settled():
        scores = Scores(accelerator, checkpoints.folder)
        if checkpoints.restore(method) != (0, False):
            raise InputError(f"a run of these options is unfinished in {checkpoints.folder}: let it end, or remove that folder")
        begin(scores, before["digest"])
        tracking = Tracking(accelerator, plain(config), this, checkpoints.folder)
        attempt, set_up = Attempt(config, accelerator, stream, method, target, checkpoints, scores, tracking), time.perf_counter() - clock
        for number, state in enumerate(states):
            method.load_state_dict(method_state(state))
            if not scores.has(number):
                checkpoints.spent = before["time"]["per_task"][number]["train_s"]
                score_task(attempt, number)
            report(accelerator, tracking, stream, number, scores.read(number)["counts"]["correct"])
        trained = {key: value for key, value in before["environment"].items() if key != "states"}
        checkpoints.resumed = trained["resumed"]
        checkpoints.changed = sorted({*trained["changed"], *records.differences(records.lasting(trained), records.lasting(environment))})
        source = {"from": before["digest"], "config_hash": before["config_hash"], "environment": environment}
        said = {"environment": trained, "rescored": source, "started": started, "finished": records.now()}
        record = keep(attempt, set_up, said)
    tracking.finish(record, target)
    return record, target


def begin(scores: Scores, source: str) -> None:
    """Go on with what a former attempt scored, where it was of the same record: that of digest `source`; else forget it."""
    said = scores.folder / "source"
    same = said.exists() and said.read_text(encoding="utf-8") == source
    if not same:
        scores.forget(0)  # which waits for all
        if scores.accelerator.is_main_process:
            with saving(scores.folder):
                said.write_text(source, encoding="utf-8")


def check_models(path: Path, before: dict[str, Any], config: DictConfig, accelerator: Accelerator) -> None:
    """Errors: InputError where what the run started from is no longer what it was"""
    was = OmegaConf.merge(config, OmegaConf.create({"method": before["config"]["method"]}))
    with weightless(), naming():
        now = method_class(config.method.name)(was.method, accelerator).weights()
    others = [name for name in {**before["weights"], **now} if before["weights"].get(name) != now.get(name)]
    if others:
        raise InputError(f"the weights of {', '.join(sorted(others))} are not those of {path}: score it where they are")


def changed(path: Path, before: dict[str, Any], overrides: list[str]) -> DictConfig:
    """-> the configuration of a record with some options changed. Errors: InputError where one of them could act while learning"""
    once(overrides)
    was = before["config"]
    name, source = was["method"]["name"], was["stream"]["source"]
    chosen = [f"method={name}", f"stream={source}", *(f"plugins=[{','.join(was['plugins'])}]" for _ in was["plugins"][:1])]
    asked, found = resolve([*chosen, *overrides]), OmegaConf.merge(resolve(chosen), OmegaConf.create(was))
    free = {f"method.{option}" for option in method_class(name).predicting}
    harmless = {*UNHASHED, *(f"stream.{option}" for option in STREAM_UNHASHED)} - {"seed", "results"}
    given: set[str] = set()
    for override in overrides:
        key = override.partition("=")[0].lstrip("+~")
        if key not in free | harmless:
            what = f"{', '.join(sorted(free))} can be changed" if free else "none of its options acts at prediction alone"
            raise InputError(f"'{key}' is no option that a trained {name} can be scored again with: {what}")
        OmegaConf.update(found, key, OmegaConf.select(asked, key))
        given.add(key)
    options = method_config(name)
    for entry in fields(options):  # what was chosen for the former rule, and has nothing to do with this one
        if f"method.{entry.name}" in free - given and idle_by(options, entry.name, found.method):
            OmegaConf.update(found, f"method.{entry.name}", default(entry))
    check("method.", options, found.method)
    place = path.resolve()
    if place.parts[-3:-1] != (before["stream"]["key"], before["method"]):
        raise InputError(f"{path} does not lie where its run wrote it, at STREAM/METHOD/FILE.json: put it back, its states beside it")
    found.results, found.keep_states = str(place.parents[2]), False
    if config_hash(found) == before["config_hash"]:
        raise InputError(
            f"{path} is scored so already: name another value of {' or '.join(sorted(free)) or 'an option; this method has none'}"
        )
    return found


USAGE = """usage: cilbench rescore RECORD method.scoring=likelihood [key=value ...]

Score a finished run again by another rule, without training it again. It must have been made with keep_states=true."""


def main(arguments: list[str]) -> int:
    """-> the exit code: 0, 75 where a signal stopped it"""
    from bench.table import show

    if {"--help", "-h"} & set(arguments):
        print(USAGE)
        return 0
    if not arguments or "=" in arguments[0]:
        raise InputError("rescore takes a record and what to change: cilbench rescore RECORD method.scoring=likelihood")
    try:
        record, path = rescore(Path(arguments[0]), arguments[1:])
    except Stopped as stopped:
        print(f"{stopped}: what was scored is saved; the same command goes on", file=sys.stderr)
        return 75
    show(record, path)
    return 0
