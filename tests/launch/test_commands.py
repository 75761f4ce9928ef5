"""The commands of the README, as a shell would run them: from another folder, as a script, with -m, under accelerate."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(ROOT / "launch" / "cpu.yaml")]

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "command",
    [
        [*ACCELERATE, str(ROOT / "bench" / "run.py")],
        [sys.executable, str(ROOT / "bench" / "run.py")],
        [sys.executable, "-m", "bench.run"],
        [*ACCELERATE, "-m", "bench.run"],
    ],
    ids=["accelerate", "script", "module", "accelerate-module"],
)
def test_run_from_another_folder(command, tmp_path):
    for name in ("data", "methods"):  # packages of the user's that must not hide ours
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('not ours')")
    done = subprocess.run(
        [*command, "method=ncm", "progress=false"], cwd=tmp_path, capture_output=True, text=True, check=False, env=_environment(command)
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (record,) = (tmp_path / "results").rglob("*.json")
    assert json.loads(record.read_text())["metrics"]["last_accuracy"] == pytest.approx(0.8267, abs=0.005)
    assert "last accuracy" in done.stdout and record.name in done.stdout


def _environment(command: list[str]) -> dict[str, str]:
    import os

    extra = {"PYTHONPATH": str(ROOT)} if "-m" in command and "bench.run" in command else {}
    return {**os.environ, **extra}


def test_unknown_option_exits_with_2():
    done = subprocess.run([sys.executable, str(ROOT / "bench" / "run.py"), "method.lrr=1"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: unknown option 'method.lrr'")
