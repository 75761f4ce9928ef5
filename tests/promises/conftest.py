"""Each method, trained on a small stream once for all promises; and the same in two processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.config import resolve
from bench.engine import learn, make_method
from data.source import load
from data.stream import TaskStream
from tests.conftest import QUICK, SMALL

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def trained(accelerator):
    """-> a function: method name -> (method after the last task, its stream)"""
    done = {}

    def train(name: str):
        if name not in done:
            config = resolve([f"method={name}", *QUICK.get(name, []), *SMALL])
            stream = TaskStream(load(config.stream), config.stream)
            method = make_method(config, accelerator, stream)
            for number in range(len(stream)):
                learn(config, accelerator, method, stream, number)
            done[name] = method, stream
        return done[name]

    return train


@pytest.fixture(scope="session")
def two_processes(tmp_path_factory) -> Path:
    """-> the folder of records of every method, run on two CPU processes under `accelerate launch`"""
    folder = tmp_path_factory.mktemp("two")
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(ROOT / "launch" / "cpu2.yaml")]
    script = [str(ROOT / "tests" / "promises" / "run_every_method.py"), str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(launch + script, capture_output=True, text=True, check=False, cwd=folder, timeout=800, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder
