"""Small parts to test methods with: no run of bench, no data set."""

from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator

from data.stream import Rows, Task
from methods.base import method_class
from methods.config import CONFIGS


@pytest.fixture(scope="session")
def accelerator():
    return Accelerator(cpu=True)


@pytest.fixture
def make(accelerator):
    """name, options -> a method on the CPU, with few short epochs"""

    def build(name, **options):
        torch.manual_seed(0)
        small = {"epochs": 1, "batch_size": 8, "lr": 0.05, "image_size": 8}
        return method_class(name)(replace(CONFIGS[name](), **{**small, **options}), accelerator)

    return build


@pytest.fixture
def watch(monkeypatch):
    """a module that calls `fit` -> a list that gets of each call its rows, the names of the values that it changed, and its options"""

    def watching(module) -> list:
        seen, plain = [], module.fit

        def watched(accelerator, net, rows, loss, options, augment):
            before = {name: value.clone() for name, value in net.state_dict().items()}
            plain(accelerator, net, rows, loss, options, augment)
            changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
            seen.append((rows, changed, options))

        monkeypatch.setattr(module, "fit", watched)
        return seen

    return watching


@pytest.fixture(scope="session")
def tasks():
    """two tasks of two classes, twelve noisy images a class whose mean colour tells the class"""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(4).repeat_interleave(12)
    colours = torch.tensor([(220, 30, 30), (30, 220, 30), (30, 30, 220), (200, 200, 30)])
    noise = torch.randint(-30, 31, (48, 3, 8, 8), generator=generator)
    images = (colours[labels][:, :, None, None] + noise).clamp(0, 255).to(torch.uint8)
    rows = Rows(images, torch.arange(48), labels)
    names = ("red", "green", "blue", "yellow")
    parts = [rows.at(torch.nonzero(labels // 2 == number)[:, 0]) for number in range(2)]
    return [Task(number, range(2 * number, 2 * number + 2), names[2 * number :][:2], part) for number, part in enumerate(parts)]
