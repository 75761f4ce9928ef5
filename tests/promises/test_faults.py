"""Faults, injected into runs: each ends in one clear sentence, and no result is lost or wrong. Oracle: the run that met none."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench import record as records
from tests.promises.faulty import ROOT, RUN, Elsewhere, at_call, go, large_files, same, sentence, small_files, terminate

PLACES = [
    ("training", 1, " in task 1 after step"),
    ("training", 15, " in task 2 after step"),
    ("evaluation", 2, ":"),  # task 2 is learnt then, and the next has not begun
    ("state", 2, " in task 1 after step"),
    ("record", 1, ":"),
]


@pytest.mark.parametrize(("place", "number", "said"), PLACES)
def test_sigterm_saves_and_exits_with_75(place, number, said, whole, tmp_path, capsys):
    with at_call(place, number, terminate):
        assert go(tmp_path) == 75
    assert f"stopped by SIGTERM{said}" in sentence(capsys.readouterr().err)
    assert not records.find(tmp_path)
    assert go(tmp_path) == 0
    assert same(tmp_path, whole)["environment"]["changed"] == []


@pytest.mark.parametrize(("pause", "said"), [(0, "stopped by SIGTERM in task 2 after step 10"), (2.1, "stopped at once")])
def test_a_second_signal_stops_at_once_unless_it_comes_with_the_first(pause, said, whole, tmp_path, capsys):
    """A launcher passes on what the terminal has sent to all: that is one request, not two."""

    def twice() -> None:
        terminate()
        time.sleep(pause)
        os.kill(os.getpid(), signal.SIGINT)

    with at_call("training", 15, twice):
        assert go(tmp_path) == 75
    assert said in sentence(capsys.readouterr().err)
    assert go(tmp_path) == 0
    assert same(tmp_path, whole)["environment"]["resumed"] == 1


@pytest.mark.parametrize(("place", "number"), [("state", 1), ("state", 2), ("scores", 2), ("predictions", 1), ("record", 1)])
def test_a_full_disk_while_saving(place, number, whole, tmp_path, capsys):
    try:
        with at_call(place, number, small_files):
            assert go(tmp_path) == 2
    finally:
        large_files()
    assert "could not be saved" in (said := sentence(capsys.readouterr().err)) and "make room there" in said
    assert not records.find(tmp_path)
    assert go(tmp_path) == 0
    same(tmp_path, whole)


def test_a_run_goes_on_with_the_data_that_it_began_with_or_not_at_all(stopped, capsys):
    """The oracle: checkpoints that say another sha256 of the stream, and nothing else."""
    folder, checkpoints = stopped
    for path in (one / "manifest.json" for one in checkpoints):
        manifest = json.loads(path.read_text())
        path.write_text(json.dumps({**manifest, "run": "0" * 64 + manifest["run"][64:]}))
    assert go(folder) == 2
    assert "the data are not those with which the run" in sentence(capsys.readouterr().err)
    assert go(folder, "resume=never") == 0


def in_namespace(script: str, folder: Path) -> subprocess.CompletedProcess:
    """Run a shell script that may mount; skips where the system does not let us."""
    if not shutil.which("unshare") or subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", folder], check=False).returncode:
        pytest.skip("no file system can be mounted here")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHON": sys.executable, "DIR": str(folder)}
    return subprocess.run(
        ["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, check=False, env=environment, timeout=1200
    )


@pytest.mark.slow
def test_a_disk_that_is_really_full(whole, tmp_path):
    run = f'"$PYTHON" {ROOT}/bench/run.py {" ".join(RUN)} results="$DIR/disk/r"'
    script = f"""mkdir "$DIR/disk"; mount -t tmpfs -o size=4m none "$DIR/disk"
        {run} >&2; [ $? = 2 ] || exit 8
        mount -o remount,size=64m "$DIR/disk"
        {run} && cp -r "$DIR/disk/r" "$DIR/r" """
    done = in_namespace(script, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "make room there" in sentence(done.stderr)
    same(tmp_path / "r", whole)


def test_a_full_disk_under_the_cache_is_a_sentence_not_a_bus_error(tmp_path):
    """A memory map on a full disk kills the process by a signal: its room is taken beforehand."""
    lines = (
        "from data.caching.cache import table, cache_dir",
        "from data.caching.entries import making",
        "from data.errors import InputError",
    )
    block = "with making(cache_dir('images') / ('0' * 32 + '.npy')) as work: table(work, 'u1', (10**7,))[:] = 1"
    code = "\n".join([*lines, "try:", f"    {block}", "except InputError as error: print(error)"])
    done = in_namespace(
        f'mount -t tmpfs -o size=1m none "$DIR"; CILBENCH_CACHE="$DIR" "$PYTHON" -c "{code}"; ls -A "$DIR/images"', tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "No space left on device" in done.stdout and "npy" not in done.stdout.splitlines()[-1]


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="a folder that not even root can write to")
def test_a_results_folder_that_not_even_root_can_write(capsys):
    assert go(Path("/sys/kernel/cilbench")) == 2
    assert "cannot be written" in sentence(capsys.readouterr().err)


def test_two_processes_start_the_same_run(whole, tmp_path):
    overrides = [*RUN, f"results={tmp_path}"]
    first = Elsewhere(overrides, hold="evaluation")
    assert first.held()
    code, said = Elsewhere(overrides).end()
    assert code == 2 and "this run is going on in another process" in sentence(said)
    first.go_on()
    assert first.end()[0] == 0
    same(tmp_path, whole)
