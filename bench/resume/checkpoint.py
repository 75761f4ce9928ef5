"""What an unfinished run has done so far, kept beside its record until that is written: checkpoints and the scores of each task.

    results/<stream>/<method>/.<hash>-s<seed>/checkpoint-000007/   the newest two; manifest.json names their files and checksums
                                             /task-0002.json       counts, times and bytes of a task that was scored
                                             /task-0002.parquet    its predictions

Everything is written under a temporary name, synced and renamed. Tensors are read with `weights_only=True` or as safetensors.
"""

import contextlib
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bench.record import differences
from bench.resume.saving import keep_trained, link, load_prepared, other_data, read_state, saving, sound, well_formed
from data.caching.cache import file_sha256, sync
from data.errors import InputError
from methods.base import Method
from methods.learning.sharding import is_sharded
from methods.learning.states import fit_state, load_fit_state, load_trained, trained_state

SCHEMA = 3  # raised when what a method saves gets another form
KEPT = 2  # checkpoints


class Stopped(Exception):
    """The run was asked to stop (SIGTERM, SIGINT); it goes on from its last checkpoint when it is started again."""


class Checkpoints:
    """Saves and restores one run. Every method is called on every rank; the main one writes, each one what it alone holds.

    run: what tells this run from others, the sha256 of its stream before a space. environment: what should not change on the way.
    """

    def __init__(self, accelerator: Accelerator, folder: Path, run: str, minutes: float, environment: dict[str, Any]):
        self.accelerator, self.folder, self.run, self.minutes = accelerator, folder, run, minutes
        self.environment, self.changed, self.resumed = environment, [], 0
        self.task = 0  # that is learnt now, or next
        self.base: Path | None = None  # the saved state at this task's start; None before the first, which starts from the seed
        self.outcomes: dict[int, dict[str, Tensor]] = {}  # of the finished phases of this task
        self.restored: tuple[Path, dict[str, Any]] | None = None  # the checkpoint of the interrupted phase
        self.train_s, self.clock = 0.0, 0.0  # seconds of this task's training in former attempts; when this attempt began it
        self.spent = 0.0  # seconds of training of the last task that was learnt, over all attempts
        self.saved_at = time.monotonic()
        self.asked: str | None = None  # the signal that asked the run to stop
        self.asked_at = 0.0
        self.training = False
        self.logged, self.logs = 0, lambda: 0  # how often trackers had been told something when it was saved, and how often by now

    @contextlib.contextmanager
    def opened(self, anew: bool = False) -> Iterator["Checkpoints"]:
        """Hold the run's lock and answer to signals. anew: forget former attempts. Errors: InputError where another process holds it."""
        lock, problem = FileLock(self.folder / "lock", timeout=0), None
        if self.accelerator.is_main_process:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire()
                for left in self.folder.parent.glob(f"{self.folder.name}[.-]*"):  # what was being written when a former attempt was killed
                    shutil.rmtree(left, ignore_errors=True)
                if anew:
                    self._clear()
            except Timeout:
                problem = f"this run is going on in another process, which holds {lock.lock_file}: wait for it, or choose another seed"
        (problem,) = broadcast_object_list([problem])
        if problem:
            raise InputError(problem)
        before = {number: signal.signal(number, self._signalled) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            lock.release()

    def restore(self, method: Method) -> tuple[int, bool]:
        """Put the method where the last sound checkpoint left it. -> the task it was in, and whether that was learnt already

        Errors: InputError where there are checkpoints and none is sound.
        """
        found = self._newest() if self.accelerator.is_main_process else None
        (found,) = broadcast_object_list([found])
        if found is None:
            return 0, False
        folder, manifest = Path(found[0]), found[1]
        if "state.pt" in manifest["files"]:
            self.base = folder / "state.pt"
            state = read_state(self.base)
            method.load_state_dict(state["method"])
            if state["scaler"] is not None:
                self.accelerator.scaler.load_state_dict(state["scaler"])
        self.resumed, self.logged = manifest["resumed"] + 1, manifest["logged"]
        self.changed = sorted({*manifest["changed"], *differences(manifest["environment"], self.environment)})
        self.task = manifest["task"] + manifest["learnt"]
        if manifest["learnt"]:
            self.spent = manifest["train_s"]
        else:
            self.restored, self.train_s = (folder, manifest), manifest["train_s"]
            self.outcomes = {phase: load_file(folder / f"phase-{phase}.safetensors") for phase in range(manifest["phase"])}
        return manifest["task"], manifest["learnt"]

    def begin(self) -> None:
        """A task's training begins, or goes on."""
        self.clock = time.perf_counter()

    def learnt(self, method: Method) -> None:
        """Keep the method as it is after a task."""
        self.spent = self._seconds()
        self._write(0, 0, method=method)
        self.task, self.outcomes, self.restored, self.train_s = self.task + 1, {}, None, 0.0

    def finished(self, phase: int, model: nn.Module) -> bool:
        """-> did this phase of the task end before the run was interrupted? Then the model gets its outcome."""
        if phase in self.outcomes:
            load_trained(model, self.outcomes[phase])
        return phase in self.outcomes

    def resume(self, phase: int, model: nn.Module, optimizer: Any) -> int:
        """Bring what the accelerator has prepared of the two to where the phase was interrupted. -> the steps done"""
        self.training = True
        restored, self.restored = self.restored, None
        if restored is None or restored[1]["phase"] != phase or not restored[1]["step"]:
            return 0
        if (restored[0] / "fit.safetensors").exists():  # written in shares, and fit for any number of processes
            load_fit_state(model, optimizer, load_file(restored[0] / "fit.safetensors"), restored[1]["step"])
        elif is_sharded():
            raise InputError(f"{restored[0]} was written within a task without DeepSpeed or FSDP: go on without them, or use resume=never")
        else:
            hook = self.accelerator.register_load_state_pre_hook(load_prepared)
            self.accelerator.load_state(str(restored[0] / "accelerate"))
            hook.remove()
        return restored[1]["step"]

    def wanted(self) -> bool:
        """-> does this rank want a checkpoint now?"""
        due = self.accelerator.is_main_process and time.monotonic() - self.saved_at >= 60 * self.minutes
        return due or self.asked is not None

    def save(self, phase: int, step: int, model: nn.Module, optimizer: Any = None) -> None:
        """Save a phase at a step. Errors: Stopped where a signal asked for it; InputError where the disk does not take it."""
        self._write(phase, step, fitted=(model, optimizer) if step else None)
        if self._anyone_asked():
            raise Stopped(f"stopped by {self.asked or 'another process'} in task {self.task + 1} after step {step}")

    def finish(self, phase: int, model: nn.Module) -> None:
        """Keep the outcome of a phase: when the run is resumed in a later one, `fit` gives it again."""
        self.training = False
        self.outcomes[phase] = {name: value.clone() for name, value in trained_state(model).items()}
        if self._anyone_asked():
            self.save(phase + 1, 0, model)

    def done(self) -> None:
        """The record is written, and nothing here is needed any more."""
        if self.accelerator.is_main_process:
            gone = self.folder.with_name(f"{self.folder.name}.done")  # at once: half of it could not be resumed
            os.replace(self.folder, gone)
            shutil.rmtree(gone, ignore_errors=True)

    def _clear(self) -> None:
        for path in sorted(self.folder.glob("checkpoint-??????"), reverse=True):  # first, as they need the scores
            os.replace(path, path.with_suffix(".part"))
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != "lock":
                path.unlink()

    def _signalled(self, number: int, _frame: Any) -> None:
        if self.asked:
            if time.monotonic() - self.asked_at < 2:  # torchrun passes a signal on that may have come by itself
                return
            raise KeyboardInterrupt
        self.asked, self.asked_at = signal.Signals(number).name, time.monotonic()
        if not self.training:  # a step of `fit` is brought to its end first; all else follows again from the last checkpoint
            raise Stopped(f"stopped by {self.asked}")

    def _anyone_asked(self) -> bool:
        asked = torch.tensor(float(self.asked is not None), device=self.accelerator.device)
        return bool(self.accelerator.reduce(asked, "sum").item())

    def _seconds(self) -> float:
        return self.train_s + time.perf_counter() - self.clock

    def _newest(self) -> tuple[str, dict[str, Any]] | None:
        """-> the newest sound checkpoint and its manifest; None if there is none at all"""
        folders = sorted(self.folder.glob("checkpoint-??????"), reverse=True)
        for folder in folders:
            if sound(folder, lambda at=folder: self._matches(at)):
                return str(folder), json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        if other_data(folders, self.run):
            raise InputError(f"the data are not those with which the run in {self.folder} began: restore them, or use resume=never")
        if folders:
            raise InputError(f"no checkpoint in {self.folder} can be used: start anew with resume=never")
        return None

    def _matches(self, folder: Path) -> bool:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        if manifest["schema"] != SCHEMA or manifest["run"] != self.run or not well_formed(manifest):
            return False
        return all(file_sha256(folder / name) == sha256 for name, sha256 in manifest["files"].items())

    def _write(self, phase: int, step: int, method: Method | None = None, fitted: tuple[nn.Module, Any] | None = None) -> None:
        """Write the next checkpoint (of the method after its task, where one is given) and remove all but the newest two."""
        old = sorted(self.folder.glob("checkpoint-??????"))
        (path,) = broadcast_object_list([self.folder / f"checkpoint-{int(old[-1].name[-6:]) + 1 if old else 1:06d}"])
        work, main = path.with_suffix(".part"), self.accelerator.is_main_process
        with saving(self.folder, work if main else None):
            if main:
                shutil.rmtree(work, ignore_errors=True)
                work.mkdir()
            self.accelerator.wait_for_everyone()
            if fitted is not None:
                self._save_fitted(work, *fitted)
            state = method.state_dict() if method is not None else None  # gathers on every rank what is sharded
            self.accelerator.wait_for_everyone()
            if main:
                self._save_states(work, state)
                self._save_manifest(work, phase, step, learnt=method is not None)
                sync(work)
                os.replace(work, path)
                sync(self.folder, deep=False)
                for folder in old[: len(old) + 1 - KEPT]:
                    shutil.rmtree(folder, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        if method is not None or self.base is not None:
            self.base = path / "state.pt"
        self.saved_at = time.monotonic()

    def _save_fitted(self, work: Path, model: nn.Module, optimizer: Any) -> None:
        """What `fit` trains (weights, optimizer, scaler). In shares it is gathered: it is little, and fits any number of processes."""
        if is_sharded():
            state = fit_state(model, optimizer)
            if self.accelerator.is_main_process:
                save_file(state, work / "fit.safetensors")
            return
        hook = self.accelerator.register_save_state_pre_hook(keep_trained)
        self.accelerator.save_state(str(work / "accelerate"))
        hook.remove()

    def _save_states(self, work: Path, state: dict[str, Any] | None) -> None:
        if state is not None:
            scaler = self.accelerator.scaler.state_dict() if self.accelerator.scaler is not None else None
            torch.save({"method": state, "scaler": scaler}, work / "state.pt")
        else:
            if self.base is not None:
                link(self.base, work / "state.pt")
            for phase, outcome in self.outcomes.items():
                save_file(outcome, work / f"phase-{phase}.safetensors")

    def _save_manifest(self, work: Path, phase: int, step: int, learnt: bool) -> None:
        manifest = {
            "schema": SCHEMA,
            "run": self.run,
            "task": self.task,
            "learnt": learnt,
            "phase": phase,
            "step": step,
            "train_s": self._seconds(),
            "logged": self.logs(),
            "resumed": self.resumed,
            "changed": self.changed,
            "environment": self.environment,
            "files": {str(file.relative_to(work)): file_sha256(file) for file in sorted(work.rglob("*")) if file.is_file()},
        }
        (work / "manifest.json").write_text(json.dumps(manifest))
