"""Speed of the classifiers' training, as ratios measured in one run. Run alone: `make benchmark`.

Oracles: bare PyTorch loops over the same network, in the same memory format, without augmentation, batches or bookkeeping.
"""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from data.images.augment import Augment, normalise
from data.stream import Rows, Task
from methods.base import method_class
from methods.config import CONFIGS, Finetune
from methods.learning.training import Session, fit, session
from methods.memory.exemplars import herd_classes
from methods.networks.classifier import Classifier
from tests.benchmarks.timing import seconds, side_by_side

BATCH, STEPS, OLD, NEW = 64, 6, 10, 10


@pytest.fixture(scope="module")
def rows() -> Rows:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (BATCH * STEPS, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return Rows(images, torch.arange(len(images)), OLD + torch.arange(len(images)) % NEW)


def second_task(name: str, accelerator, **options):
    """-> a method with a teacher of the old classes, as it stands when it learns the second task"""
    options = {"batch_size": BATCH, "epochs": 1, "lr": 1e-3, **options}
    method = method_class(name)(replace(CONFIGS[name](), **options), accelerator)
    method.net.grow(OLD)
    method.teacher = copy.deepcopy(method.net).eval().requires_grad_(False)
    method.net.grow(OLD + NEW)
    return method


def training(method, accelerator, rows):
    with session(Session()):
        fit(accelerator, method.net, rows, method.loss, method.config)


def bare_steps(rows: Rows, channels_last: bool = True, precision: torch.dtype | None = None, teacher: bool = False):
    """-> a function that takes STEPS steps: images are normalised tensors already, targets are at hand"""
    net = Classifier(replace(Finetune(), channels_last=channels_last))
    net.grow(OLD + NEW)
    old = copy.deepcopy(net).eval().requires_grad_(False) if teacher else None
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-5)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    batches = [normalise(part.float()).contiguous(memory_format=layout) for part in rows.store.split(BATCH)]
    targets = torch.zeros(BATCH, OLD + NEW)

    def run():
        net.train()
        for images in batches:
            with torch.autocast("cpu", precision, enabled=precision is not None):
                if old is not None:
                    with torch.no_grad():
                        targets[:, :OLD] = old.classify(old.backbone.maps(images))[:, :OLD].sigmoid()
                logits = net.classify(net.backbone.maps(images))
            binary_cross_entropy_with_logits(logits.float(), targets).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return run


def test_memory_format_and_precision(rows):
    ways = {
        "contiguous": bare_steps(rows, channels_last=False),
        "channels_last": bare_steps(rows),
        "channels_last, bf16": bare_steps(rows, precision=torch.bfloat16),
    }
    times = dict(zip(ways, side_by_side(*ways.values()), strict=True))
    for name, value in times.items():
        print(f"\nResNet-32, a step of {BATCH}: {name} {times['contiguous'] / value:.2f} times the rate of contiguous float32", end="")
    assert times["channels_last"] < times["contiguous"]


def test_an_epoch_of_resnet32(accelerator):
    """fit reads uint8 rows, augments and normalises them; the bare loop has float tensors of them in memory and does none of that."""
    count, size = 2048, 128
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(count) % NEW
    config = replace(Finetune(), batch_size=size, epochs=1, lr=1e-3)
    method = method_class("finetune")(config, accelerator)
    method.net.grow(NEW)
    net = copy.deepcopy(method.net)
    batches = [normalise(part.float()).contiguous(memory_format=torch.channels_last) for part in images.split(size)]

    def bare():
        optimizer = torch.optim.SGD(net.train().parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
        for pixels, wanted in zip(batches, labels.split(size), strict=True):
            cross_entropy(net.classify(net.backbone.maps(pixels)), wanted).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def ours():
        with session(Session()):
            fit(accelerator, method.net, Rows(images, torch.arange(count), labels), method.loss, config, Augment())

    barely, fitted = side_by_side(bare, ours)
    print(f"\nResNet-32, an epoch of {count} rows through fit: {barely / fitted:.2f} of the images/s of a bare loop over tensors", end="")
    assert barely / fitted >= 0.95


def test_a_step_of_icarl(rows, accelerator):
    """Steps 3 to 6: what `fit` does once a task, and the garbage collector with it, is told apart."""
    method, few = second_task("icarl", accelerator), rows.at(torch.arange(2 * BATCH))
    fits = [partial(training, method, accelerator, part) for part in (rows, few)]
    long, short, bare = side_by_side(*fits, bare_steps(rows, teacher=True), repeats=5)
    bare /= STEPS
    step = (long - short) / (STEPS - 2)
    print(f"\niCaRL through fit: a step takes {step / bare:.2f} times a bare one with a teacher's forward pass", end="")
    print(f"; a task starts and ends in {(short - 2 * step) / bare:.1f} steps' time")
    assert step <= 1.10 * bare


def test_a_step_of_lwm_against_lwf(rows, accelerator):
    lwm, lwf = side_by_side(*(partial(training, second_task(name, accelerator), accelerator, rows) for name in ("lwm", "lwf")))
    print(f"\nLwM: {lwm / lwf:.2f} times the step of LwF-MC")
    assert lwm <= 2.5 * lwf


def test_selecting_exemplars(rows, accelerator):
    """At the rate of bare inference, and herding of 5,000 rows under 1 % of the epoch that they make."""
    method = second_task("icarl", accelerator, memory=2000)
    task = Task(1, range(OLD, OLD + NEW), tuple(map(str, range(NEW))), rows)
    batches = [normalise(part.float()).contiguous(memory_format=torch.channels_last) for part in rows.store.split(BATCH)]
    net = method.net.eval()

    @torch.inference_mode()
    def bare():
        for images in batches:
            net.backbone.pool(net.backbone.maps(images))

    def select():
        method.memory.lists.clear()
        method.memory.update(task.train, task.classes, method.embedded, torch.Generator())

    selected, read = side_by_side(select, bare)
    ratio = selected / read
    labels, features = torch.arange(5000) % 10, torch.randn(5000, 64, generator=torch.Generator().manual_seed(0))
    herding = seconds(lambda: herd_classes(features, labels, range(10), 200))
    epoch = seconds(bare_steps(rows, teacher=True)) * 5000 / len(rows)
    print(f"\nselection: {ratio:.2f} times bare inference; herding of 5,000 x 64: {herding / epoch:.2%} of an epoch")
    assert ratio <= 1.15 and herding < 0.01 * epoch
