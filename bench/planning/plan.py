"""`dry_run=true`: what a run would do and need, told without decoding an image or training anything."""

import contextlib
import io
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import Accelerator
from omegaconf import DictConfig

from bench import outside
from bench.identity import identity
from bench.launching import check_features, check_method, make_accelerator
from bench.planning.estimate import describe, device_bytes, device_memory, layout, module_bytes, steps, too_large
from bench.planning.features import encoder_bytes, feature_lines, feeding_line
from data.bars import show
from data.caching.cache import cache_dir
from data.errors import InputError
from data.source import load, remarks
from data.stream import TaskStream
from methods.base import Method, method_class
from methods.learning.sharding import weightless
from methods.networks.features import choose
from methods.networks.fed import Fed

GIB = 2**30


def show_plan(config: DictConfig) -> int:
    """Print the plan, once. -> exit code 0, or 2 where something is missing. Errors: InputError as a run would raise it."""
    logging.disable(logging.WARNING)  # libraries warn of networks without weights, which is what a plan wants
    try:
        with contextlib.redirect_stdout(sys.stdout if os.environ.get("RANK", "0") == "0" else io.StringIO()):
            return _show_plan(config)
    finally:
        logging.disable(logging.NOTSET)


def _show_plan(config: DictConfig) -> int:
    show(config.progress)
    outside.check()
    source = load(config.stream, decode=False)
    stream = TaskStream(source, config.stream)
    print(f"stream   {stream.key}")
    print(f"sha256   {stream.sha256}")
    for line in stream.intake.lines() if stream.intake else ():
        print(f"data     {line}")
    print(f"scenario {stream.scenario}, {len(stream)} tasks, {len(stream.class_names)} classes")
    for task in range(len(stream)):
        print(_task_line(stream, task))
    for line in _needs(config, stream):
        print(line)
    for line in remarks(source):
        print(f"warning  {line}")
    learner = method_class(config.method.name)
    lacking: list[str] = []
    try:
        accelerator = make_accelerator(config)
        with weightless() as lacking:
            method = learner(config.method, accelerator)
            check_features(config, method)
            print(_record_line(identity(config, stream, method.id(), {}).path(config.results), bool(method.models())))
            for line in [*check_method(config, method, stream), *_fed(config, method), *_model(config, accelerator, method, stream)]:
                print(line)
    except InputError as error:
        lacking = [*lacking, f"missing  {error}"]
    for line in dict.fromkeys(lacking):
        print(line)
    if any(line.startswith("missing") for line in lacking):
        return 2
    accelerator.end_training()
    return 0


def _record_line(path: Path, models: bool) -> str:
    """models: some whose digest, which a plan does not make, stands in the name"""
    if not models:
        return f"record   {path}{' (exists)' if path.exists() else ''}"
    found = sorted(path.parent.glob(path.name.replace("-s", "-????????-s")))
    exists = f" (exists for {' and '.join(one.name for one in found)})" if found else ""
    return f"record   {path.with_name(path.name.replace('-s', '-MODELS-s'))}, with digits of the models{exists}"


def _fed(config: DictConfig, method: Method) -> Iterator[str]:
    """-> lines on the published models in use, and how they are fed"""
    for part, said in method.models().items():
        if "size" not in said:
            told = {key: value for key, value in said.items() if key not in ("library", "tag", "weights", "activation") and value}
            yield f"{part:<8} {said['tag']} ({said['library']}): {', '.join(f'{key} {value!r}' for key, value in told.items())}"
            continue
        fed = Fed(**{key: value for key, value in said.items() if key != "weights"})
        yield f"{part:<8} {fed}"
        given, wanted = config.stream.image_size, max(fed.shorter, fed.through)
        if given is not None and given < fed.shorter:
            yield f"size     images of stream.image_size={given} are enlarged to {fed.shorter} pixels: set stream.image_size={wanted}"


def _model(config: DictConfig, accelerator: Accelerator, method: Method, stream: TaskStream) -> Iterator[str]:
    """-> lines on a method's frozen encoder and on a generative model. Errors: InputError where it does not fit its device"""
    choices = {}
    if method.encoder is not None:
        splits = {"train": stream.train_rows, "scored": stream.scored_rows}
        choices = dict(zip(splits, choose(method.encoder, list(splits.values()), config.features, method.views), strict=True))
        yield from feature_lines(method.encoder, choices)
    shape = method.shape(stream.class_names)
    if shape is None:
        return
    model, features, answer = shape
    count, how, memory = method.parameters(), layout(accelerator), device_memory(accelerator)
    yield f"model    {count['total']:,} parameters, of which {count['trainable']:,} train"
    taken = device_bytes(model, config.method, how, features, answer, config.eval_batch_size)
    taken["encoder"] = encoder_bytes(method.encoder, choices)
    texts = getattr(method, "text_encoder", None)
    words = module_bytes(texts.model) if texts is not None and texts.model is not model else 0.0  # it stays in main memory
    taken["names"] = words if accelerator.device.type == "cpu" else 0.0
    if words and not taken["names"]:
        yield f"memory   {words / GIB:.2f} GiB of main memory for the text encoder, on each process"
    yield describe(taken, how, memory)
    yield feeding_line(accelerator, model, config.method, how, features, answer)
    seen = [sum(stream.sizes[:task]) for task in range(len(stream))]
    rows = [len(stream[task].train) for task in range(len(stream))]
    kept = [min(config.method.memory // max(1, classes) * classes, sum(rows[:task])) for task, classes in enumerate(seen)]
    each = ", ".join(str(steps(config.method, *one)) for one in zip(rows, kept, strict=True))
    yield f"steps    {each} of {config.method.batch_size} rows, task by task"
    if too_large(taken, memory):
        raise InputError(too_large(taken, memory))


def _task_line(stream: TaskStream, task: int) -> str:
    first = sum(stream.sizes[:task])
    names = stream.arrivals[first : first + stream.sizes[task]]
    said = ", ".join(names[:6]) + (f", … ({len(names)} in all)" if len(names) > 6 else "")
    return f"task {task + 1:>3}: {len(stream[task].train):>7} training rows, {len(stream.test(task)):>6} scored rows: {said}"


def _needs(config: DictConfig, stream: TaskStream) -> list[str]:
    """-> lines on the memory or cache that the decoded images take, and on what there is"""
    decoded = sum(_decoded_bytes(rows.store) for rows in {id(r.store): r for r in (stream.train_rows, stream.scored_rows)}.values())
    if not hasattr(stream.train_rows.store, "names"):
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return [f"memory   {decoded / GIB:.2f} GiB of images, of {memory / GIB:.0f} GiB"]
    if decoded > config.stream.cache_gib * GIB:
        limit = f"{decoded / GIB:.2f} GiB decoded is over stream.cache_gib={config.stream.cache_gib:g}"
        return [f"cache    none: {limit}; workers decode while training"]
    folder: Path = cache_dir("images")
    free = shutil.disk_usage(folder).free
    short = " — NOT ENOUGH: set CILBENCH_CACHE to another disk" if free < decoded else ""
    return [f"cache    {decoded / GIB:.2f} GiB decoded, under {folder} ({free / GIB:.0f} GiB free){short}"]


def _decoded_bytes(store: object) -> int:
    return len(store) * store[torch.zeros(1, dtype=torch.int64)].numel()
