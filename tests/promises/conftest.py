"""Each method, trained on a small stream once for all promises; and the same in two processes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from bench.config import resolve
from bench.engine import learn, make_method
from data.source import load
from data.stream import TaskStream
from tests.conftest import QUICK, SMALL
from tests.promises.faulty import ROOT, at_call, go, terminate


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
    """-> the folder of records of every method, run on two CPU processes under `accelerate launch`; once for all workers of pytest-xdist"""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "two"
    with FileLock(f"{folder}.lock"):
        if not (folder / "ended").exists():
            folder.mkdir(exist_ok=True)
            launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(ROOT / "launch" / "cpu2.yaml")]
            script = [str(ROOT / "tests" / "promises" / "run_every_method.py"), str(folder)]
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            done = subprocess.run(launch + script, capture_output=True, text=True, check=False, cwd=folder, timeout=3000, env=environment)
            assert done.returncode == 0, done.stderr[-3000:]
            (folder / "ended").touch()
    return folder


@pytest.fixture(scope="session")
def whole(tmp_path_factory) -> Path:
    """-> the results of a run that met no fault"""
    folder = tmp_path_factory.mktemp("whole")
    assert go(folder) == 0
    return folder


@pytest.fixture(scope="session")
def stopped_once(tmp_path_factory) -> Path:
    """-> the results of a run that was stopped while task 3 was scored: it has checkpoints after tasks 2 and 3"""
    folder = tmp_path_factory.mktemp("stopped")
    with at_call("evaluation", 3, terminate):
        assert go(folder) == 75
    return folder


@pytest.fixture
def stopped(stopped_once, tmp_path) -> tuple[Path, list[Path]]:
    """-> a copy of these results of its own, and the checkpoints in it"""
    shutil.copytree(stopped_once, tmp_path / "stopped")
    checkpoints = sorted((tmp_path / "stopped").rglob("checkpoint-??????"))
    assert len(checkpoints) == 2
    return tmp_path / "stopped", checkpoints
