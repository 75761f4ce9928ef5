"""Started in a folder that has packages `data` and `methods` of its own, as most research repositories do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(sys.executable).with_name("cilbench")


@pytest.fixture
def foreign(tmp_path):
    """-> a folder with packages that end whatever imports them, and a plugin beside them that needs one"""
    for name in ("data", "methods"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise SystemExit('{name} of the folder, not ours')")
    (tmp_path / "data" / "loader.py").write_text("")
    (tmp_path / "theirs.py").write_text("import data.loader")
    (tmp_path / "good.py").write_text("from methods.config import METHODS\nMETHODS['good'] = 'methods.ncm:NCM'")
    return tmp_path


def started(command: list[str], folder: Path) -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(folder), str(ROOT)])  # the user's first, which is the worst
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path})


@pytest.mark.parametrize(
    "command",
    [
        [str(ROOT / "bench" / "run.py"), "method=ncm", "--help"],
        ["-m", "bench.run", "method=ncm", "--help"],
        [str(ROOT / "launch" / "sweep.py"), "--help"],
        ["-m", "launch.sweep", "--help"],
        ["-m", "launch.start", "--help"],
        [str(ROOT / "launch" / "cli.py"), "ls", "methods"],
        ["-m", "launch.cli", "ls", "methods"],
        ["-m", "bench.board.leaderboard", "."],
        ["-m", "bench.board.compare", "--help"],
        ["-m", "bench.board.report", "--help"],
        [str(SCRIPT), "ls", "methods"],
    ],
    ids=lambda command: " ".join(Path(part).name for part in command),
)
def test_every_entry_point_finds_our_packages(command, foreign):
    if command[0] == str(SCRIPT) and not SCRIPT.exists():
        pytest.skip("cilbench is not installed beside this Python: pip install -e .")
    done = started([sys.executable, *command], foreign)
    assert done.returncode == 0 and done.stdout, done.stderr[-2000:]


def test_a_plugin_of_the_folder_is_found_and_one_that_needs_a_hidden_package_is_told_so(foreign):
    command = [sys.executable, str(ROOT / "bench" / "run.py"), "method=ncm", "--cfg", "job"]
    assert subprocess.run([*command, "plugins=[good]"], cwd=foreign, capture_output=True, check=False).returncode == 0
    done = started([*command, "plugins=[theirs]"], foreign)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "plugin 'theirs' needs data.loader, and cilbench has a package data of its own" in done.stderr
    assert "my_package.data" in done.stderr
