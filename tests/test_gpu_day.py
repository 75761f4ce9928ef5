"""What is measured on a card takes the same ways here, very small. Oracle: every part is measured or says why it is left out."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_the_gpu_day_in_small(tmp_path):
    """From another folder, and with a git that does nothing but fail."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "git").write_text("#!/bin/sh\nexit 127\n")
    (tmp_path / "bin" / "git").chmod(0o755)
    path = os.pathsep.join([str(tmp_path / "bin"), os.environ["PATH"]])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path, "CUDA_VISIBLE_DEVICES": ""}
    run = [sys.executable, "-m", "tests.benchmarks.gpu", "tiny"]
    done = subprocess.run(run, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment, timeout=800)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "FAILED" not in done.stdout and "0 parts failed" in done.stdout
    for said in ("iCaRL", "torch.compile", "Llama", "utilisation", "against the plan", "answering", "ZeRO-3 with offload", "8-bit loading"):
        assert said in done.stdout


def test_without_a_card_the_gpu_day_says_so(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    run = [sys.executable, "-m", "tests.benchmarks.gpu"]
    done = subprocess.run(run, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment, timeout=200)
    assert done.returncode == 0 and "no GPU here" in done.stdout
