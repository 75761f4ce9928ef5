"""What a method knew after each task, kept beside its record, so that the run can be scored again by another rule.

results/<stream>/<method>/<hash>-s<seed>-states/task-0000.pt   what `Method.state_dict` gave; the record holds its sha256
"""

import shutil
from pathlib import Path
from typing import Any

from bench.resume.saving import link, read_state, saving
from data.caching.cache import atomic, file_sha256
from data.errors import InputError


def states_folder(record: Path) -> Path:
    return record.with_name(f"{record.stem}-states")


def start_states(record: Path, learnt: int) -> None:
    """Make room for the states of a run of which `learnt` tasks are done. Errors: InputError where those of them are not there."""
    folder = states_folder(record)
    if not learnt:
        shutil.rmtree(folder, ignore_errors=True)
    if not all((folder / name(task)).exists() for task in range(learnt)):
        raise InputError(f"this run began without keep_states=true and has learnt {learnt} tasks: go on without it, or use resume=never")
    folder.mkdir(parents=True, exist_ok=True)


def keep_state(record: Path, task: int, saved: Path) -> None:
    """Keep what was `saved` after a task under a second name, which outlives the checkpoint."""
    folder = states_folder(record)
    with saving(folder), atomic(folder / name(task)) as work:
        work.unlink(missing_ok=True)
        link(saved, work)


def checksums(record: Path, tasks: int) -> dict[str, str]:
    """-> the sha256 of each state by its file name, for the record"""
    return {name(task): file_sha256(states_folder(record) / name(task)) for task in range(tasks)}


def kept_states(path: Path, record: dict[str, Any]) -> list[Path]:
    """-> the states after each task of the run whose record lies at `path`. Errors: InputError where they were not kept, or are others."""
    said = record["environment"].get("states")
    if not said:
        raise InputError(f"{path} is of a run that kept no states: run it again with keep_states=true")
    files = [states_folder(path) / one for one in said]
    for file in files:
        if not file.exists() or file_sha256(file) != said[file.name]:
            raise InputError(f"{file} is missing or is not what the run wrote: run it again with keep_states=true")
    return files


def method_state(path: Path) -> dict[str, Any]:
    """-> what `Method.load_state_dict` takes. Errors: InputError"""
    return read_state(path)["method"]


def name(task: int) -> str:
    return f"task-{task:04d}.pt"
