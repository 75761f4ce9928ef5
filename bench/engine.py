"""The only loop over tasks: learn, evaluate, record. Knows no method and no data set by name.

Shapes: T tasks.
"""

import contextlib
import gc
import hashlib
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, set_seed
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from bench import record as records
from bench.config import config_hash
from bench.evaluation import Scores, evaluate, tally
from bench.launching import make_accelerator
from bench.pictures import write_pictures
from bench.result import peak_memory, result, total_time, within_budget
from bench.resume.checkpoint import Checkpoints
from bench.resume.saving import saving
from bench.tracking import Tracking
from data.errors import InputError
from data.source import load
from data.stream import Rows, Task, TaskStream
from methods.base import Method, method_class
from methods.learning.batches import derive_seed
from methods.learning.sharding import is_sharded
from methods.learning.training import Session, session
from methods.networks.features import with_features


def run(config: DictConfig, accelerator: Accelerator | None = None) -> tuple[dict[str, Any], Path]:
    """Run one method over one stream, or go on where a former attempt was interrupted. -> the record and its path

    On every rank; the main one writes. Errors: InputError; Stopped where a signal asked for it.
    """
    started, clock = records.now(), time.perf_counter()
    accelerator = accelerator or make_accelerator(config)
    stream = TaskStream(load(config.stream), config.stream)
    for line in stream.intake.lines() if stream.intake else ():
        say(accelerator, f"data: {line}")
    path = records.record_path(
        config.results, stream.key, method_class(config.method.name).variant(config.method), config_hash(config), config.seed
    )
    _check_writable(path.parent)
    environment = records.environment(accelerator)
    lasting = {"git": environment["git"], "python": environment["python"], **environment["packages"]}
    folder = path.with_name(f".{path.stem}")
    checkpoints = Checkpoints(accelerator, folder, f"{stream.sha256} {path.stem}", config.checkpoint.minutes, lasting)
    with checkpoints.opened(anew=config.resume == "never"), contextlib.ExitStack() as stack:
        method = make_method(config, accelerator, stream)
        stack.enter_context(settled())
        first, learnt = checkpoints.restore(method)
        if learnt or first or checkpoints.restored:
            say(accelerator, f"going on {'after' if learnt else 'in'} task {first + 1}, from {folder}")
        plain = OmegaConf.to_container(config, resolve=True)
        tracking = Tracking(accelerator, plain, stream.key, method.id(), config_hash(config))
        scores, ready = Scores(accelerator, folder), time.perf_counter()
        if not all(scores.has(number) for number in range(first)):
            raise InputError(f"scores in {folder} are damaged or lost: start anew with resume=never")
        for number in range(first, len(stream)):
            if number > first or not learnt:
                scores.forget(number)
                checkpoints.begin()
                learn(config, accelerator, method, stream, number, tracking.training, checkpoints)
                checkpoints.learnt(method)
            if not scores.has(number):
                before = time.perf_counter()
                scored = evaluate(accelerator, method, stream, number, config)
                values = {**tally(scored, stream, number), "bytes": sum(kept.bytes for kept in within_budget(method))}
                spent = {"train_s": checkpoints.spent, "evaluate_s": time.perf_counter() - before}
                if config.pictures:
                    show_pictures(accelerator, method, stream[number], path, tracking)
                scores.write(number, scored, {"counts": values, "time": spent})
            report(accelerator, tracking, stream, number, scores.read(number)["counts"]["correct"])
        done = [scores.read(number) for number in range(len(stream))]
        record = {
            **result(config, stream, method, plain, [one["counts"] for one in done]),
            "time": total_time([one["time"] for one in done], ready - clock),
            "peak_memory_bytes": peak_memory(accelerator),
            "environment": {**environment, "resumed": checkpoints.resumed, "changed": checkpoints.changed},
            "started": started,
            "finished": records.now(),
        }
        if accelerator.is_main_process:
            scores.join_predictions(len(stream), path.with_name(f"{path.stem}-predictions.parquet"))
            with saving(path.parent):
                record = records.write(record, path)
        accelerator.wait_for_everyone()
        checkpoints.done()
    tracking.finish(record, path)
    return record, path


def report(accelerator: Accelerator, tracking: Tracking, stream: TaskStream, number: int, correct: list[int]) -> None:
    """Say how a task went, to the user and to the tracker."""
    total = stream.test_sizes()
    tracking.task(correct, total)
    accuracy = sum(correct) / sum(total[: number + 1])
    say(accelerator, f"task {number + 1}/{len(stream)}: accuracy {accuracy:.1%} over {stream.classes(number).stop} classes")


def show_pictures(accelerator: Accelerator, method: Method, task: Task, path: Path, tracking: Tracking) -> None:
    """Write what the method has to show after a task beside the record at `path`, and log it."""
    columns = method.pictures(task)
    if columns and accelerator.is_main_process:
        tracking.picture("pictures", write_pictures(columns, path.with_name(f"{path.stem}-task{task.index + 1}.png")))


def make_method(config: DictConfig, accelerator: Accelerator, stream: TaskStream) -> Method:
    """-> the method, alike on every rank; if it has a frozen encoder, the stream gives its cached features from now on"""
    set_seed(derive_seed(config.seed) % 2**32)
    learner = method_class(config.method.name)
    if is_sharded() and learner.trained and not learner.sharded:
        raise InputError(
            f"method={config.method.name} trains a network of its own, which DeepSpeed and FSDP are not for: "
            "launch it with --multi_gpu, or on the CPU with launch/cpu2.yaml"
        )
    method = learner(config.method, accelerator)
    if stream.scenario not in method.scenarios:
        raise InputError(f"method={config.method.name} needs tasks that bring new classes: choose a class-incremental stream")
    method.check(len(stream.class_names))
    method.check_names(stream.class_names)
    for network in method.networks():
        network.eval()  # but while `fit` trains it: a run may go on with an evaluation
    if method.encoder is not None:
        stream.train_rows = with_features(accelerator, method.encoder, stream.train_rows, progress=config.progress)
        stream.scored_rows = with_features(accelerator, method.encoder, stream.scored_rows, progress=config.progress)
    return method


def learn(
    config: DictConfig,
    accelerator: Accelerator,
    method: Method,
    stream: TaskStream,
    number: int,
    log: Any = None,
    checkpoints: Checkpoints | None = None,
) -> None:
    """Let the method learn one task, and make sure that the ranks agree afterwards."""
    set_seed(derive_seed(config.seed, number) % 2**32)  # heads grow alike on every rank
    with session(Session(config.seed, number, len(stream), config.progress, log or (lambda values: None), checkpoints)):
        method.learn(stream[number])
    if accelerator.num_processes > 1 and len(set(gather_object([state_digest(method.state_dict())]))) != 1:
        raise RuntimeError(f"the ranks hold different weights after task {number + 1}")


@contextlib.contextmanager
def settled() -> Iterator[None]:
    """Inside the block, what exists now (modules, tokenizers) is not searched for garbage again after every task."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def say(accelerator: Accelerator, text: str) -> None:
    if accelerator.is_main_process:
        print(text, file=sys.stderr, flush=True)


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # it has no name: a kill just now leaves nothing behind
            pass
    except OSError as error:
        raise InputError(f"results folder {folder} cannot be written ({error.strerror}): choose another with results=DIR") from None


def state_digest(state: Any) -> str:
    """-> sha256 over a nest of dicts, lists, tensors and plain values"""
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, Tensor):
            digest.update(
                repr((tuple(value.shape), value.dtype)).encode()
                + value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
            )
        elif isinstance(value, Rows):
            add([value.index, value.labels])
        elif isinstance(value, dict):
            for key in value:
                digest.update(repr(key).encode())
                add(value[key])
        elif isinstance(value, (list, tuple)):
            for one in value:
                add(one)
        else:
            digest.update(repr(value).encode())

    add(state)
    return digest.hexdigest()
