"""Every small generative model in shares on two CPU processes, each loaded from its folder. Oracle: the same in one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


def launched(launch: list[str], report: Path, **environment: str) -> list[dict]:
    """-> what each process wrote down, by family"""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", *launch]
    command += [str(ROOT / "tests" / "sharding" / "families.py"), str(report)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=1200, env=environment)
    assert done.returncode == 0, "\n".join(line for line in done.stderr.splitlines() if line.startswith("[rank0]"))[-3000:]
    return json.loads(report.read_text())


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict:
    (found,) = launched(["launch/cpu.yaml"], tmp_path_factory.mktemp("alone") / "report.json")
    return found


@pytest.mark.parametrize("config", ["zero3", "fsdp2"])
def test_every_family_in_shares_says_and_learns_what_a_whole_one_does(config, alone, tmp_path):
    """The cache is empty: any of the two processes may be the one that makes the models."""
    launch = [f"launch/{config}.yaml", "--num_processes", "2", "--mixed_precision", "no"]
    everywhere = launched(launch, tmp_path / "report.json", CILBENCH_CACHE=str(tmp_path / "cache"))
    assert len(everywhere) == 2 and set(alone) == set(everywhere[0])
    for family, one in alone.items():
        assert one["held"] == 1
        assert one["after"] != pytest.approx(one["before"], rel=1e-4), f"{family} learns nothing"
        for found in everywhere:
            assert 0.45 < found[family]["held"] < 0.55, family
            assert found[family]["answers"] == one["answers"], family
            for when in ("before", "after"):
                assert found[family][when] == pytest.approx(one[when], rel=1e-5), (family, when)
