"""wandb or TensorBoard, through accelerate's trackers. A tracker that fails is dropped with a warning; the record never depends on it."""

import hashlib
import json
import re
import uuid
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from bench.identity import Identity
from bench.metrics import rates
from bench.resume.saving import saving
from data.caching.cache import atomic
from data.errors import InputError, one_of

TRACKERS = ("none", "wandb", "tensorboard")
PATIENCE = 120  # seconds that wandb may take at the end of a run to upload what is left; the rest stays on disk for `wandb sync`


def check_tracker(name: str) -> None:
    """Errors: InputError for a tracker that is unknown or not installed."""
    one_of("tracker", name, TRACKERS)
    if name != "none" and find_spec(name) is None:
        raise InputError(f"tracker={name} needs the package {name}: pip install {name}")


class Tracking:
    """What one run tells the trackers of its accelerator.

    config: resolved. The seeds of a method on a stream form one group of wandb. folder: of the unfinished run, which remembers how the
    trackers know it; step: how often had been logged where it goes on. A run does the same again from there, so what wandb has of it
    already is left out, and TensorBoard's is replaced.
    """

    def __init__(self, accelerator: Accelerator, config: dict[str, Any], run: Identity, folder: Path, step: int = 0):
        self.accelerator, self.step = accelerator, step
        group = f"{run.stream}/{run.method}"
        flat = {key: value if isinstance(value, (int, float, bool)) else str(value) for key, value in _flatten(config).items()}
        name = run.stem
        known, anew = _known(folder / "tracked.json", run) if config["tracker"] != "none" and accelerator.is_main_process else ("", True)
        # TensorBoard tells runs apart by folder, wandb by project and name.
        project = config["project"] if config["tracker"] == "wandb" else f"tensorboard/{group}/{name}"
        wandb = {"group": group, "job_type": "run", "name": f"{group}/{name}", "settings": {"finish_timeout": PATIENCE}}
        wandb |= {"id": known, "resume": "allow"}
        tensorboard = {} if anew else {"purge_step": step + 1}
        flat |= {"config_hash": run.config_hash, "stream_key": run.stream, "code": run.code[:8], "models": run.models[:8]}
        self._try(lambda: accelerator.init_trackers(project, config=flat, init_kwargs={"wandb": wandb, "tensorboard": tensorboard}))

    def log(self, values: dict[str, float]) -> None:
        self.step += 1
        self._try(lambda: self.accelerator.log(values, step=self.step))

    def training(self, values: dict[str, float]) -> None:
        """Log what `fit` reports: loss, lr, rows_per_s, task, step."""
        self.log({f"train/{key}": value for key, value in values.items()})

    def task(self, correct: list[int], total: list[int]) -> None:
        """Log the accuracies after a task. correct: right answers on each task so far; total: rows of each task"""
        pairs = enumerate(zip(correct, total, strict=False), start=1)
        values = {f"accuracy/task {number}": right / rows for number, (right, rows) in pairs if rows}
        self.log({"accuracy": sum(correct) / sum(total[: len(correct)]), "task": len(correct)} | values)

    def picture(self, name: str, pixels: Any) -> None:
        """Log one picture, uint8 [H, W, 3], at the step logged last."""
        tensorboard = {"tensorboard": {"dataformats": "NHWC"}}
        self._try(lambda: self.accelerator.log_images({name: pixels[None]}, step=self.step, log_kwargs=tensorboard))

    def finish(self, record: dict[str, Any], path: Path) -> None:
        """Give the trackers what the record says, and close them."""
        if self.accelerator.is_main_process:
            self._try(lambda: self._summary(record, path))
        for tracker in self.accelerator.trackers:
            self._try(tracker.finish)
        self.accelerator.trackers = []

    def _summary(self, record: dict[str, Any], path: Path) -> None:
        from bench.board.plots import matrix, pixels

        costs = {"memory_bytes": record["memory"]["bytes"], "trainable": record["parameters"]["trainable"]}
        summary = record["metrics"] | costs | {name: record["time"][name] for name in ("train_s", "evaluate_s", "total_s")}
        self.step += 1
        for tracker in self.accelerator.trackers:
            picture = pixels(matrix(record))  # [H, W, 3]
            if tracker.name == "wandb":
                _wandb_summary(tracker, summary, picture, record, path, self.step)
            else:
                tracker.log({f"summary/{key}": value for key, value in summary.items() if isinstance(value, (int, float))}, step=self.step)
                tracker.log_images({"accuracy matrix": picture.transpose(2, 0, 1)[None]}, step=self.step)

    def _try(self, action: Callable[[], Any]) -> None:
        if not self.accelerator.log_with:
            return
        try:
            action()
        except Exception as error:  # noqa: BLE001 - trackers raise anything; none of it may cost a run
            self.accelerator.log_with, self.accelerator.trackers = [], []
            warnings.warn(f"the tracker failed ({error.__class__.__name__}: {error}); the run goes on without it", stacklevel=2)


def _known(file: Path, run: Identity) -> tuple[str, bool]:
    """-> the id under which trackers know an unfinished run, and whether it is new: kept until the record is written"""
    try:
        return str(json.loads(file.read_text(encoding="utf-8"))["id"]), False
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        known = f"{hashlib.sha256(repr(run).encode()).hexdigest()[:12]}-{uuid.uuid4().hex[:6]}"
        with saving(file.parent), atomic(file) as work:
            work.write_text(json.dumps({"id": known}))
        return known, True


def _wandb_summary(tracker: Any, summary: dict[str, Any], picture: Any, record: dict[str, Any], path: Path, step: int) -> None:
    import wandb
    import yaml

    table = rates(record["counts"]["correct"], record["counts"]["total"])
    cells = [[number, *(None if value != value else float(value) for value in row)] for number, row in enumerate(table, start=1)]
    tracker.log_table("accuracy table", ["after task", *(f"task {number}" for number in range(1, len(table) + 1))], cells, step=step)
    tracker.log_images({"accuracy matrix": [picture]}, step=step)
    tracker.tracker.summary.update(summary)
    artifact = wandb.Artifact(re.sub(r"[^\w.-]", "-", f"{record['method']}-{path.stem}")[:128], type="record")
    artifact.add_file(str(path))
    with artifact.new_file("config.yaml", mode="w") as file:
        yaml.safe_dump(record["config"], file, sort_keys=False)
    tracker.tracker.log_artifact(artifact)


def _flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
