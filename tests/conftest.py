"""Shared fixtures: every method on small streams, with one cache for the whole test run."""

import os

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("DS_ACCELERATOR", "cpu")

import pytest
from accelerate import Accelerator

from bench.config import resolve
from bench.engine import run
from methods.config import METHODS
from tests.bench.made import write_record
from tests.tiny import clip_folder

# What makes a method quick enough to be run many times over; its defaults are for `digits` whole.
QUICK = {
    "finetune": ["method.epochs=1", "method.lr=0.001"],
    "joint": ["method.epochs=1", "method.lr=0.001"],
    "replay": ["method.epochs=1", "method.lr=0.0003", "method.memory=20"],
    "lwf": ["method.epochs=1", "method.lr=0.001"],
    "lwm": ["method.epochs=1", "method.lr=0.001"],
    "icarl": ["method.epochs=1", "method.lr=0.001", "method.memory=20"],
    "mae_cil": [
        "method.epochs=1",
        "method.batch_size=16",
        "method.lr=0.0001",
        "method.width=32",
        "method.depth=3",
        "method.memory_bytes=1960",
        "method.balanced_epochs=2",
        "method.balanced_lr=0.0001",
    ],
    "gmm": ["method.memory=12", "method.max_new_tokens=12"],
    "ranpac": ["method.projection=100"],
    "wa": ["method.epochs=1", "method.lr=0.0003", "method.memory=20"],
    "der_yan": [
        "method.epochs=1",
        "method.lr=0.0003",
        "method.memory=20",
        "method.backbone=resnet32",
        "method.balanced_epochs=2",
        "method.balanced_lr=0.001",
    ],
    "zero_shot": [f"method.encoder=open_clip:{clip_folder()}"],
}
PROMPTED = ["method.epochs=1", "method.backbone=vit_tiny_small", "method.image_size=32", "method.batch_size=16", "method.lr=0.0003"]
SLOW = ["method.align_epochs=1", "method.align_lr=0.001", "method.drawn=16"]
QUICK["slca"] = [*PROMPTED, *SLOW]
QUICK |= {name: PROMPTED for name in ("coda_prompt", "dualprompt", "l2p")}
SMALL = ["stream=digits", "stream.limit=6", "progress=false"]


def quickened(method: str, *overrides: str) -> list[str]:
    """-> a method's quick options, less the one that has no effect with these overrides, and the overrides"""
    silent = "method.scoring=likelihood" in overrides  # it answers nothing, so that no answer has a length
    return [*(one for one in QUICK.get(method, []) if not (silent and one.startswith("method.max_new_tokens"))), *overrides]


@pytest.fixture(params=sorted(METHODS))
def method_name(request) -> str:
    """Every registered method: a new one is held to the promises by being registered."""
    return request.param


@pytest.fixture
def quick(tmp_path):
    """-> a function: method, further overrides -> the configuration of a quick run that writes under tmp_path"""

    def configure(method: str, *overrides: str):
        return resolve([f"method={method}", *SMALL, f"results={tmp_path / 'results'}", *quickened(method, *overrides)])

    return configure


@pytest.fixture(scope="session")
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


@pytest.fixture(scope="session")
def one_process(accelerator, tmp_path_factory):
    """-> a function: method name -> (record, path) of its run in this process"""
    done, folder = {}, tmp_path_factory.mktemp("one")

    def run_once(name: str):
        if name not in done:
            config = resolve([f"method={name}", *QUICK.get(name, []), *SMALL, f"results={folder}"])
            done[name] = run(config, accelerator)
        return done[name]

    return run_once


@pytest.fixture
def made(tmp_path):
    """-> a function: changes to a made record -> its path, under tmp_path"""
    return lambda **changes: write_record(tmp_path, **changes)
