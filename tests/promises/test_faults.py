"""Faults, injected into runs: each ends in one clear sentence, and no result is lost or wrong. Oracle: the run that met none."""

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pandas as pd
import pytest

from bench import record as records
from bench.run import main
from data.store import FileStore, decoded
from tests.data import trees
from tests.promises.faulty import ROOT, Elsewhere, at_call, large_files, small_files, terminate

# Small, with enough steps a task for checkpoints within it.
RUN = ["method=finetune", "method.lr=0.0003", "method.batch_size=4", "method.epochs=6"]  # twelve steps a task
RUN += ["stream=digits", "stream.limit=4", "stream.tasks=3", "progress=false", "checkpoint.minutes=0"]


def go(folder: Path, *more: str) -> int:
    return main([*RUN, f"results={folder}", *more])


def sentence(text: str) -> str:
    """-> the one sentence that a run ended with; there is no traceback"""
    (said,) = [line for line in text.splitlines() if line.startswith(("error:", "stopped"))]
    assert "bench/run.py" not in text, "a traceback of ours"
    return said


def same(folder: Path, whole: Path) -> dict:
    """Assert that a folder holds one record, the same as the undisturbed one. -> it"""
    (ours,), (theirs,) = records.find(folder), records.find(whole)
    found = records.read(ours)
    assert records.stable(found) == records.stable(records.read(theirs))
    predictions = [pd.read_parquet(path.with_name(f"{path.stem}-predictions.parquet")) for path in (ours, theirs)]
    assert predictions[0].equals(predictions[1])
    assert [path.name for path in ours.parent.iterdir() if path.name.startswith(".")] == []  # nothing is left
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """-> the results of a run that met no fault"""
    folder = tmp_path_factory.mktemp("whole")
    assert go(folder) == 0
    return folder


@pytest.fixture(scope="module")
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


@pytest.mark.parametrize(("place", "number"), [("training", 1), ("training", 15), ("evaluation", 2), ("state", 2), ("record", 1)])
def test_sigterm_saves_and_exits_with_75(place, number, whole, tmp_path, capsys):
    with at_call(place, number, terminate):
        assert go(tmp_path) == 75
    assert "stopped by SIGTERM in task" in sentence(capsys.readouterr().err)
    assert not records.find(tmp_path)
    assert go(tmp_path) == 0
    assert same(tmp_path, whole)["environment"]["changed"] == []


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


def in_namespace(script: str, folder: Path) -> subprocess.CompletedProcess:
    """Run a shell script that may mount; skips where the system does not let us."""
    if not shutil.which("unshare") or subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", folder], check=False).returncode:
        pytest.skip("no file system can be mounted here")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHON": sys.executable, "DIR": str(folder)}
    return subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, check=False, env=environment, timeout=300)


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
    lines = ("from data.cache import table, cache_dir", "from data.entries import making", "from data.errors import InputError")
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


def truncate(path: Path) -> None:
    swap(path, path.read_bytes()[:-7])


def garble(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    swap(path, content)


def swap(path: Path, content: bytes) -> None:
    """Give a file other content; other names of the old file keep theirs."""
    path.unlink()
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [truncate, garble, lambda path: path.unlink(), lambda path: swap(path, b"")])
@pytest.mark.parametrize("name", ["state.pt", "manifest.json"])
def test_a_damaged_checkpoint_is_left_aside_for_the_one_before(name, harm, stopped, whole):
    folder, checkpoints = stopped
    harm(checkpoints[-1] / name)
    with warnings.catch_warnings(record=True) as said:
        assert go(folder) == 0
    # A letter changed in a manifest can leave it whole, where it only tells of time: then it is used, and that is right, too.
    assert any("is damaged or belongs to another run" in str(one.message) for one in said) or (name, harm) == ("manifest.json", garble)
    same(folder, whole)


@pytest.mark.parametrize("other", [{"run": "another"}, {"schema": 99}, {"task": "two"}, {"files": []}, {"phase": 7}])
def test_a_foreign_checkpoint_is_never_used(other, stopped, whole, capsys):
    folder, checkpoints = stopped
    for checkpoint in checkpoints:
        manifest = json.loads((checkpoint / "manifest.json").read_text())
        (checkpoint / "manifest.json").write_text(json.dumps(manifest | other))
    with pytest.warns(UserWarning, match="belongs to another run"):
        assert go(folder) == 2
    assert "start anew with resume=never" in sentence(capsys.readouterr().err)
    assert go(folder, "resume=never") == 0
    same(folder, whole)


class Evil:
    """What runs code when it is unpickled."""

    def __reduce__(self):
        return (os.system, ("touch owned",))


def test_a_pickle_in_place_of_a_state_is_refused(stopped, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder, checkpoints = stopped
    for checkpoint in checkpoints:
        swap(checkpoint / "state.pt", pickle.dumps(Evil()))
        manifest = json.loads((checkpoint / "manifest.json").read_text())
        manifest["files"]["state.pt"] = hashlib.sha256((checkpoint / "state.pt").read_bytes()).hexdigest()
        (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    assert go(folder) == 2
    assert "other things than tensors" in sentence(capsys.readouterr().err)
    assert not (tmp_path / "owned").exists()
    pickle.loads((checkpoints[0] / "state.pt").read_bytes())
    assert (tmp_path / "owned").exists()  # it would have


def test_scores_that_were_changed_are_refused(stopped, capsys):
    folder, _ = stopped
    truncate(next(folder.rglob("task-0000.parquet")))
    with pytest.warns(UserWarning, match="damaged"):
        assert go(folder) == 2
    assert "scores in" in (said := sentence(capsys.readouterr().err)) and "resume=never" in said


def test_two_processes_start_the_same_run(whole, tmp_path):
    overrides = [*RUN, f"results={tmp_path}"]
    first = Elsewhere(overrides, hold="evaluation")
    assert first.held()
    code, said = Elsewhere(overrides).end()
    assert code == 2 and "this run is going on in another process" in sentence(said)
    first.go_on()
    assert first.end()[0] == 0
    same(tmp_path, whole)


def launched(fault: str, folder: Path, *more: str) -> subprocess.CompletedProcess:
    """The run in two processes under `accelerate launch`, with a fault in the first"""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(ROOT / "launch" / "cpu2.yaml")]
    script = [str(ROOT / "tests" / "promises" / "faulty.py"), fault, *RUN, f"results={folder}", *more]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(launch + script, capture_output=True, text=True, check=False, cwd=ROOT, timeout=200, env=environment)


def near(folder: Path, whole: Path) -> dict:
    """Assert that the record of a run on other numbers of processes agrees with the undisturbed one of one process. -> it"""
    (ours,), (theirs,) = records.find(folder), records.find(whole)
    found, expected = records.read(ours), records.read(theirs)
    assert {key: found[key] for key in ("stream", "config_hash", "memory")} == {
        key: expected[key] for key in ("stream", "config_hash", "memory")
    }
    one, two = (pd.read_parquet(path.with_name(f"{path.stem}-predictions.parquet")) for path in (ours, theirs))
    assert one[["after_task", "index", "label"]].equals(two[["after_task", "index", "label"]])
    # Sums in another order differ in the last bits, and training enlarges that: undisturbed runs on two processes and on one were seen
    # to agree in 0.896 of these predictions, with scores up to 0.31 apart.
    assert (one.prediction == two.prediction).mean() >= 0.85
    assert abs(one.score - two.score).mean() < 0.1 * two.score.abs().mean()
    return found


@pytest.mark.slow
def test_one_of_two_processes_is_killed_and_one_process_goes_on(whole, tmp_path):
    """At step 11 of task 2, after a checkpoint at step 10. The other one must not hang, and the world size may change."""
    before = time.monotonic()
    done = launched("killed", tmp_path)
    assert done.returncode != 0 and time.monotonic() - before < 90
    said = sentence(done.stderr)
    assert "another one ended or did not answer" in said or "stopped by SIGTERM" in said, done.stderr[-3000:]
    assert not records.find(tmp_path)
    manifest = json.loads((max(tmp_path.rglob("checkpoint-??????")) / "manifest.json").read_text())
    assert (manifest["task"], manifest["learnt"], manifest["step"]) == (1, False, 10)
    assert go(tmp_path) == 0
    found = near(tmp_path, whole)
    assert found["environment"]["resumed"] == 1 and found["environment"]["world_size"] == 1


@pytest.mark.slow
def test_one_of_two_processes_hangs(whole, tmp_path):
    done = launched("hanging", tmp_path, "timeout_minutes=0.25")
    assert done.returncode != 0
    assert "did not answer within timeout_minutes=0.25" in sentence(done.stderr), done.stderr[-3000:]
    assert not records.find(tmp_path)


@pytest.mark.slow
def test_two_processes_go_on_where_one_was_stopped(whole, tmp_path, capsys):
    with at_call("training", 17, terminate):
        assert go(tmp_path) == 75
    assert "in task 2 after step 10" in sentence(capsys.readouterr().err)
    done = launched("none", tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    found = near(tmp_path, whole)
    assert found["environment"]["resumed"] == 1 and found["environment"]["world_size"] == 2


def test_a_clock_that_goes_backwards(stopped, whole, monkeypatch):
    folder, checkpoints = stopped
    for path in folder.rglob("*"):
        os.utime(path, (4e9, 4e9))  # written in the year 2096
    os.utime(checkpoints[0], (5e9, 5e9))  # and the older one later
    hours = iter(range(23, -1, -1))
    monkeypatch.setattr(records, "now", lambda: f"2026-01-01T{next(hours):02}:00:00+00:00")
    monkeypatch.setattr("time.time", lambda: float(next(hours)))
    assert go(folder) == 0
    found = same(folder, whole)
    assert found["started"] > found["finished"]
    assert min(found["time"][name] for name in ("train_s", "evaluate_s", "total_s")) > 0
    assert all(value >= 0 for one in found["time"]["per_task"] for value in one.values())


def test_a_truncated_feature_cache_is_made_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CILBENCH_CACHE", str(tmp_path / "cache"))
    run = ["method=ncm", "stream.limit=2", "stream.tasks=2", "progress=false"]
    assert main([*run, f"results={tmp_path / 'whole'}"]) == 0
    tables = sorted((tmp_path / "cache" / "features").glob("*.npy"))
    assert len(tables) == 2
    for path in tables:
        truncate(path)
    capsys.readouterr()
    assert main([*run, f"results={tmp_path / 'again'}"]) == 0
    assert capsys.readouterr().err.count("is made again") == 2
    same(tmp_path / "again", tmp_path / "whole")


def test_a_truncated_cache_of_decoded_images_is_made_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CILBENCH_CACHE", str(tmp_path / "cache"))
    for row in range(4):
        trees.save(tmp_path / f"{row}.png", row)
    files = FileStore(tmp_path, [f"{row}.png" for row in range(4)], 8, 1)
    before = decoded(files).table.copy()
    for harm in (truncate, garble):
        harm(decoded(files).path)
        capsys.readouterr()
        assert (decoded(files).table == before).all()
        assert capsys.readouterr().err.count("is made again") == 1


@pytest.mark.parametrize("workers", [0, 1], ids=["in the run's process", "in a worker process"])
def test_an_image_that_breaks_in_the_middle_of_a_run(workers, tmp_path, capsys):
    for row in range(16):
        trees.save(tmp_path / "images" / f"class{row // 4}" / f"{row}.png", row)
    run = ["method=finetune", "method.epochs=1", "method.batch_size=2", "stream=folder", f"stream.root={tmp_path / 'images'}"]
    run += ["stream.image_size=16", "stream.increment=2", "stream.cache_gib=0", f"stream.workers={workers}", "progress=false"]
    assert main([*run, f"results={tmp_path / 'whole'}"]) == 0
    broken = [tmp_path / "images" / "class3" / f"{row}.png" for row in range(12, 16)]
    good = [path.read_bytes() for path in broken]
    with at_call("evaluation", 1, lambda: [path.write_bytes(b"not an image") for path in broken]):
        assert main([*run, f"results={tmp_path / 'cut'}"]) == 2
    said = sentence(capsys.readouterr().err)
    assert "class3" in said and "is no readable image" in said
    for path, content in zip(broken, good, strict=True):
        path.write_bytes(content)
    assert main([*run, f"results={tmp_path / 'cut'}"]) == 0
    assert same(tmp_path / "cut", tmp_path / "whole")["environment"]["resumed"] == 1
