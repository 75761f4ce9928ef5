"""The plan's memory against that of running processes, with the packaged decoder of 135M parameters. Run alone, on Linux: `make benchmark`.

Oracle: resident pages, from before the model is read to the highest in four training steps.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARALLEL = ["--num_processes", "2", "--mixed_precision", "no"]


@pytest.mark.parametrize("rows", [8, 32])
@pytest.mark.parametrize("file", ["cpu", "zero2", "zero3", "fsdp2"])
def test_plan_is_within_15_percent(file, rows, tmp_path, capsys):
    options = PARALLEL if file != "cpu" else []
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(ROOT / "launch" / f"{file}.yaml"), *options]
    script = [str(ROOT / "tests" / "sharding" / "measure.py"), str(tmp_path / "report.json"), f"method.batch_size={rows}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment["MALLOC_MMAP_THRESHOLD_"] = "65536"  # what is freed goes back at once, as in the counts of a GPU's memory
    done = subprocess.run(command + script, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=800, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads((tmp_path / "report.json").read_text())
    planned, measured = sum(report["planned"].values()), max(one["peak"] for one in report["measured"])
    with capsys.disabled():
        parts = ", ".join(f"{name} {size / 2**20:.0f}" for name, size in report["planned"].items())
        print(f"\n{report['kind']}, {rows} rows: planned {planned / 2**20:.0f} MiB ({parts}), measured {measured / 2**20:.0f} MiB", end="")
        print(f": {planned / measured - 1:+.1%}")
    assert abs(planned / measured - 1) < 0.15
