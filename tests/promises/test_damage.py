"""What lies on the disk is damaged, foreign or of another time: it is refused in one clear sentence, or made again.

Oracle: the run that met none of it.
"""

import hashlib
import json
import os
import pickle
import warnings
from pathlib import Path

import pytest

from bench import record as records
from bench.run import main
from data.images.store import FileStore, decoded
from tests.data import trees
from tests.promises.faulty import at_call, go, same, sentence


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
