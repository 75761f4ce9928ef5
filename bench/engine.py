"""The only loop over tasks: learn, evaluate, record. Knows no method and no data set by name.

Shapes: T tasks.
"""

import contextlib
import gc
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object, set_seed
from omegaconf import DictConfig, OmegaConf

from bench import record as records
from bench.digest import state_digest
from bench.evaluation import Scores, evaluate, tally
from bench.finite import check_learnt, check_loaded
from bench.identity import guard, identity
from bench.launching import check_features, check_method, check_precision, make_accelerator
from bench.pictures import write_pictures
from bench.result import peak_memory, result, total_time, within_budget
from bench.resume.checkpoint import Checkpoints
from bench.resume.saving import saving
from bench.resume.states import checksums, keep_state, start_states
from bench.tracking import Tracking
from data.bars import show
from data.errors import InputError
from data.opening import opened
from data.stream import Task, TaskStream
from methods.base import Method, method_class
from methods.learning.batches import derive_seed
from methods.learning.sharding import is_sharded
from methods.learning.training import Session, session
from methods.networks.features import with_features


@dataclass
class Attempt:
    """One attempt at a run: what each of its steps needs."""

    config: DictConfig
    accelerator: Accelerator
    stream: TaskStream
    method: Method
    path: Path  # of the record to be
    checkpoints: Checkpoints
    scores: Scores
    tracking: Tracking


def run(config: DictConfig, accelerator: Accelerator | None = None) -> tuple[dict[str, Any], Path]:
    """Run one method over one stream, or go on where a former attempt was interrupted. -> the record and its path

    On every rank; the main one writes. Errors: InputError; Stopped where a signal asked for it.
    """
    started, clock = records.now(), time.perf_counter()
    accelerator = accelerator or make_accelerator(config)
    show(config.progress)
    stream = opened(config.stream)
    for line in stream.intake.lines() if stream.intake else ():
        say(accelerator, f"data: {line}")
    check_place(config, accelerator, stream)
    method = make_method(config, accelerator, stream)
    this = identity(config, stream, method.id(), method.weights())
    path = this.path(config.results)
    environment = records.environment(accelerator)
    checkpoints = checkpoints_of(path, config, accelerator, stream, environment)
    begun = checkpoints.folder.exists()
    with checkpoints.opened(anew=config.resume == "never"):
        guard(path, this, records.existing(path, begun))
        scores = Scores(accelerator, checkpoints.folder)
        first = go_on(accelerator, method, checkpoints, scores)
        if config.keep_states and accelerator.is_main_process:
            start_states(path, first)
        tracking = Tracking(accelerator, plain(config), this, checkpoints.folder, checkpoints.logged)
        checkpoints.logs = lambda: tracking.step
        attempt, set_up = Attempt(config, accelerator, stream, method, path, checkpoints, scores, tracking), time.perf_counter() - clock
        with settled():
            for number in range(first, len(stream)):
                if number == checkpoints.task:  # else it was learnt in a former attempt, which did not come to score it
                    learn_task(attempt, number)
                if not scores.has(number):
                    score_task(attempt, number)
                report(accelerator, tracking, stream, number, scores.read(number)["counts"]["correct"])
            record = keep(attempt, set_up, {"environment": environment, "started": started, "finished": records.now()})
    tracking.finish(record, path)
    return record, path


def check_place(config: DictConfig, accelerator: Accelerator, stream: TaskStream) -> None:
    """Before models are read. Errors: InputError where the launch is not as the options say, or no record can be written"""
    check_precision(config, accelerator)
    this = identity(config, stream, method_class(config.method.name).variant(config.method), {})
    _check_writable(this.path(config.results).parent)


def checkpoints_of(
    path: Path, config: DictConfig, accelerator: Accelerator, stream: TaskStream, environment: dict[str, Any]
) -> Checkpoints:
    """-> what a run whose record goes to `path` keeps of itself until then, beside it"""
    folder = path.with_name(f".{path.stem}")
    return Checkpoints(accelerator, folder, f"{stream.sha256} {path.stem}", config.checkpoint.minutes, records.lasting(environment))


def go_on(accelerator: Accelerator, method: Method, checkpoints: Checkpoints, scores: Scores) -> int:
    """Put the method where a former attempt left it, if there was one. -> the first task that is to be learnt or scored

    Errors: InputError where what a former attempt kept cannot be used.
    """
    first, learnt = checkpoints.restore(method)
    if learnt or first or checkpoints.restored:
        say(accelerator, f"going on {'after' if learnt else 'in'} task {first + 1}, from {checkpoints.folder}")
    if not all(scores.has(number) for number in range(first)):
        raise InputError(f"scores in {checkpoints.folder} are damaged or lost: start anew with resume=never")
    return first


def learn_task(attempt: Attempt, number: int) -> None:
    """Let the method learn a task, and keep what it is then."""
    attempt.scores.forget(number)
    attempt.checkpoints.begin()
    log, checkpoints = attempt.tracking.training, attempt.checkpoints
    learn(attempt.config, attempt.accelerator, attempt.method, attempt.stream, number, log, checkpoints)
    checkpoints.learnt(attempt.method)


def score_task(attempt: Attempt, number: int) -> None:
    """Score the test rows of all tasks so far, and keep the predictions, the counts, the bytes kept and the time."""
    if attempt.config.keep_states and attempt.accelerator.is_main_process:
        keep_state(attempt.path, number, attempt.checkpoints.base)
    before = time.perf_counter()
    scored = evaluate(attempt.accelerator, attempt.method, attempt.stream, number, attempt.config)
    counts = {**tally(scored, attempt.stream, number), "bytes": sum(kept.bytes for kept in within_budget(attempt.method))}
    spent = {"train_s": attempt.checkpoints.spent, "evaluate_s": time.perf_counter() - before}
    if attempt.config.pictures:
        show_pictures(attempt.accelerator, attempt.method, attempt.stream[number], attempt.path, attempt.tracking)
    attempt.scores.write(number, scored, {"counts": counts, "time": spent})


def keep(attempt: Attempt, set_up: float, circumstances: dict[str, Any]) -> dict[str, Any]:
    """Write the record and the predictions of all tasks; what the attempts kept beside them goes. -> the record as written"""
    scores, stream, path, checkpoints = attempt.scores, attempt.stream, attempt.path, attempt.checkpoints
    done = [scores.read(number) for number in range(len(stream))]
    met = {"features": ways(attempt.method, stream), "resumed": checkpoints.resumed, "changed": checkpoints.changed}
    if attempt.config.keep_states and attempt.accelerator.is_main_process:
        met["states"] = checksums(path, len(stream))
    record = {
        **result(attempt.config, stream, attempt.method, plain(attempt.config), [one["counts"] for one in done]),
        "time": total_time([one["time"] for one in done], set_up),
        "peak_memory_bytes": peak_memory(attempt.accelerator),
        **circumstances,
        "environment": {**circumstances["environment"], **met},
    }
    if attempt.accelerator.is_main_process:
        scores.join_predictions(len(stream), path.with_name(f"{path.stem}-predictions.parquet"))
        with saving(path.parent):
            record = records.write(record, path)
    attempt.accelerator.wait_for_everyone()
    checkpoints.done()
    return record


def plain(config: DictConfig) -> dict[str, Any]:
    """-> every option, resolved"""
    return OmegaConf.to_container(config, resolve=True)


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
    """-> the method, alike on every rank; if it has a frozen encoder, the stream gives its features from now on"""
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
    for line in check_method(config, method, stream):
        say(accelerator, line)
    check_loaded(method)
    for network in method.networks():
        network.eval()  # but while `fit` trains it: a run may go on with an evaluation
    check_features(config, method)
    if method.encoder is not None:
        splits = [stream.train_rows, stream.scored_rows]
        fed = with_features(accelerator, method.encoder, splits, config.features, config.progress, method.views)
        stream.train_rows, stream.scored_rows = fed
    return method


def ways(method: Method, stream: TaskStream) -> dict[str, str]:
    """-> how the features of each split came: from a table in the cache, or live"""
    splits = {"train": stream.train_rows, "scored": stream.scored_rows} if method.encoder is not None else {}
    return {name: "cache" if rows.encode is None else "live" for name, rows in splits.items()}


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
    check_learnt(method, number, config, accelerator)
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
