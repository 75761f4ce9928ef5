"""`fit`: the only optimisation loop. `embed`: the only inference loop.

Batches, exemplars and augmentation draws are made for the *global* batch from (seed, task, phase, step) and sliced by
rank, so that nothing depends on the number of processes. Shapes: B batch, N rows, W processes.
"""

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, set_seed
from torch import Generator, Tensor, nn
from tqdm import tqdm

from data.errors import InputError, one_of
from data.images.augment import Augment, ResizedCrop
from data.stream import Batch, Rows
from methods.config import Training
from methods.learning.batches import GlobalBatches, Micro, derive_seed
from methods.learning.batchnorm import global_statistics
from methods.learning.feeding import fed, reader
from methods.learning.optim import learning_rate
from methods.learning.sharding import autocast, is_sharded, no_gradient, prepare, release, synced

REPORT_EVERY = 10  # steps between loss reports, and so between checks for NaN


@dataclass
class Session:
    """Where in the run we are: opened by the engine around `learn`, read by `fit`."""

    seed: int = 0
    task: int = 0
    tasks: int = 1
    progress: bool = False
    log: Callable[[dict[str, float]], None] = lambda values: None
    checkpoints: Any = None  # bench.resume.checkpoint.Checkpoints, or None where nothing is to be saved
    phase: int = 0  # ordinal of the next `fit` in this task
    micro: Micro | None = None  # the batch that `loss` sees now: the source of random numbers by row

    def generator(self, *where: int) -> Generator:
        """-> random numbers that depend on the seed, the task and `where`, and on nothing else"""
        return torch.Generator().manual_seed(derive_seed(self.seed, self.task, *where))


_session = Session()


@contextlib.contextmanager
def session(opened: Session) -> Iterator[Session]:
    """Make `opened` the session that `fit` reads inside the block."""
    global _session
    before, _session = _session, opened
    try:
        yield opened
    finally:
        _session = before


def current() -> Session:
    return _session


def fit(
    accelerator: Accelerator,
    model: nn.Module,
    rows: Rows,
    loss: Callable[[nn.Module, Batch], Tensor],
    options: Training,
    augment: Augment | ResizedCrop | None = None,
) -> None:
    """Minimise `loss(model, batch)`, the mean over the batch's rows, over the parameters of `model` that require gradients.

    The optimizer starts anew; a model's `rates` let parts of it learn more slowly (`make_optimizer`). The last batch of an epoch may be
    smaller; nothing is dropped or repeated.
    Errors: InputError where the loss stops being finite (task, step and learning rate named).
    """
    run = _session
    phase, run.phase = run.phase, run.phase + 1
    steps = options.epochs * math.ceil(len(rows) / options.batch_size)
    if steps and not (run.checkpoints and run.checkpoints.finished(phase, model)):
        model.train()  # only then do its layers say which of them take statistics of a batch
        with global_statistics(model, accelerator.num_processes, lambda: run.micro is None or run.micro.weight > 0):
            _optimise(accelerator, model, rows, loss, options, augment, run, phase, steps)
        release(accelerator)
    model.eval()
    set_seed(derive_seed(run.seed, run.task, phase, -2) % 2**32)  # what follows draws the same, whether this was done just now or before


def compiled(model: nn.Module, backend: str | None) -> nn.Module:
    """-> the same model, whose forward and backward pass torch.compile has made with `backend`, if any. Errors: InputError"""
    if backend is None:
        return model
    one_of("method.compile", backend, [*torch.compiler.list_backends(), "aot_eager"])
    return torch.compile(model, backend=backend)


def reseed(device: torch.device, seed: int) -> None:
    """Let what follows draw the same, on the CPU and the device: torch.manual_seed without a look for other devices, each time"""
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


def _optimise(
    accelerator: Accelerator,
    model: nn.Module,
    rows: Rows,
    loss: Callable[[nn.Module, Batch], Tensor],
    options: Training,
    augment: Augment | ResizedCrop | None,
    run: Session,
    phase: int,
    steps: int,
) -> None:
    """The loop of `fit`, from the first step of the phase, or where it was interrupted, to the last."""
    steps_an_epoch = steps // options.epochs
    prepared, optimizer = prepare(accelerator, model, options)
    start = run.checkpoints.resume(phase, model, optimizer) if run.checkpoints else 0
    prepared.train()
    where, rank, world = (run.seed, run.task, phase), accelerator.process_index, accelerator.num_processes
    batches = GlobalBatches(len(rows), options.batch_size, options.accumulate, where, start, steps, rank, world)
    loader = reader(accelerator, rows, batches, steps - start)
    bar = tqdm(
        total=steps,
        initial=start,
        desc=f"task {run.task + 1}/{run.tasks}",
        unit="step",
        disable=not (run.progress and accelerator.is_main_process),
        file=sys.stderr,
        dynamic_ncols=True,
    )
    called = compiled(prepared, options.compile)
    total, seen = torch.zeros((), device=accelerator.device), 0
    opening: Tensor | None = None  # the loss of the first batch, before anything was learnt here
    count, since = 0, time.perf_counter()  # rows of all ranks since the last report
    for batch, micro in zip(loader, batches.micro(), strict=True):
        if micro.first:
            reseed(accelerator.device, derive_seed(*where, micro.step, rank))
            rate = learning_rate(options, micro.step, steps, steps_an_epoch)
            for group in optimizer.param_groups:
                group["lr"] = rate * group.get("share", 1.0)
        run.micro = micro
        batch = fed(accelerator, rows, batch, augment, None if augment is None else micro.draws(augment))
        with synced(accelerator, prepared, micro.last):
            with autocast(accelerator):  # not of the backward pass, whose operations follow those of the forward pass
                value = loss(called, batch)
            accelerator.backward(value * micro.weight)  # DeepSpeed clips and steps in here
        total += value.detach() * micro.weight
        opening = value.detach() if opening is None else opening
        if not micro.last:
            continue
        if options.clip is not None:
            accelerator.clip_grad_norm_(prepared.parameters(), options.clip)
        try:
            optimizer.step()
        except RuntimeError as error:
            if "without overflow" not in str(error):
                raise
            raise InputError(
                f"a step at learning rate {rate:g} is no number that a weight can hold: lower method.lr or set method.clip"
            ) from None
        optimizer.zero_grad(set_to_none=True)
        seen += 1
        count += micro.count
        bar.update()
        if seen == REPORT_EVERY or micro.step + 1 == steps:
            wanted = torch.tensor(float(run.checkpoints.wanted() if run.checkpoints else False), device=accelerator.device)
            mean, wanted, first = accelerator.reduce(torch.stack([total / seen, wanted, opening.float()]), "mean").tolist()
            if not math.isfinite(mean):
                bar.close()
                if not math.isfinite(first):
                    raise InputError(
                        f"the loss is {first} in task {run.task + 1} before a step was taken, which is no matter of the learning rate: "
                        + ("" if accelerator.mixed_precision == "no" else "set precision=no, or ")
                        + "look at the task's images and at the method's loss"
                    )
                raise InputError(
                    f"the loss became {mean} in task {run.task + 1} by step {micro.step + 1} at learning rate {rate:g}: "
                    "lower method.lr or set method.clip"
                )
            bar.set_postfix(loss=f"{mean:.3f}", refresh=False)
            speed = count / (time.perf_counter() - since)
            run.log({"loss": mean, "lr": rate, "rows_per_s": speed, "task": run.task, "step": micro.step + 1})
            total.zero_()
            seen, count, since = 0, 0, time.perf_counter()
            if wanted and micro.step + 1 < steps:
                run.checkpoints.save(phase, micro.step + 1, model, optimizer)
    bar.close()
    if not is_sharded():
        accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)
    if run.checkpoints:
        run.checkpoints.finish(phase, model)


def embed(accelerator: Accelerator, fn: Callable[[Batch], Any], rows: Rows, batch_size: int, progress: str | None = None) -> tuple:
    """Apply `fn` to every row: every rank gets all rows, in the order of `rows`, each exactly once.

    fn: a batch -> a tuple of tensors [b, ...] and lists of length b. Returns the same tuple over all N rows, tensors on
    the CPU. The batches are cut from `rows` before they are dealt to the ranks, so what `fn` sees does not depend on W.
    """
    count, world, rank = len(rows), accelerator.num_processes, accelerator.process_index
    batches = math.ceil(count / batch_size)
    rounds = math.ceil(batches / world)  # the same on every rank, as sharded models need
    starts = [min(number * world + rank, batches - 1) * batch_size for number in range(rounds)]
    dealt = [torch.arange(start, min(start + batch_size, count)) for start in starts]
    results = []
    quiet = progress is None or not accelerator.is_main_process
    read = reader(accelerator, rows, dealt, rounds)
    for positions, batch in zip(dealt, tqdm(read, progress, rounds, disable=quiet, file=sys.stderr, leave=False), strict=True):
        with no_gradient(), autocast(accelerator):
            output = fn(fed(accelerator, rows, batch))
        short = batch_size - len(positions)
        results.append(tuple(_pad(column, short) for column in (positions, *output)))
    merged = [_merge(accelerator, [result[part] for result in results], batch_size, count) for part in range(len(results[0]))]
    if not torch.equal(merged[0], torch.arange(count)):
        raise RuntimeError("embed lost or repeated rows")  # a fault of ours, never of the input
    return tuple(merged[1:])


def _pad(column: Tensor | list, short: int) -> Tensor | list:
    """Fill a last short batch up to the batch size, so that ranks gather equal shapes."""
    if isinstance(column, list):
        return column + [None] * short
    return torch.cat([column.cpu(), column[:1].cpu().expand(short, *column.shape[1:])]) if short else column.cpu()


def _merge(accelerator: Accelerator, parts: list, batch_size: int, count: int) -> Tensor | list:
    """parts: one entry [b, ...] a round -> all N rows: round 0 of rank 0, round 0 of rank 1, …, without the padding"""
    world, rounds = accelerator.num_processes, len(parts)
    if isinstance(parts[0], list):
        mine = [item for part in parts for item in part]
        everything = gather_object(mine) if world > 1 else mine  # rank-major
        return [
            everything[(rank * rounds + number) * batch_size + item]
            for number in range(rounds)
            for rank in range(world)
            for item in range(batch_size)
        ][:count]
    mine = torch.stack(parts)  # [rounds, b, ...]
    if world == 1:
        return mine.flatten(0, 1)[:count]
    everything = accelerator.gather(mine.to(accelerator.device)).cpu()  # [W * rounds, b, ...]
    return everything.unflatten(0, (world, rounds)).transpose(0, 1).flatten(0, 2)[:count]
