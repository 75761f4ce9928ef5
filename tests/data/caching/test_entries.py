"""Entries of the cache: whole or made again, safe with several processes, limited in size. The oracle is what was written."""

import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from data.caching import entries
from data.caching.cache import cache_dir
from data.caching.entries import cached, making, use, whole
from data.errors import InputError
from launch.cli import main

KEY = "0123456789abcdef" * 2
CONTENT = bytes(range(256)) * 40


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CILBENCH_CACHE", str(tmp_path / "cache"))
    yield
    for path in list(entries._held):
        entries._held.pop(path).close()


def put(number: int = 0, kind: str = "features", size: int = len(CONTENT), held: bool = False) -> Path:
    path = cache_dir(kind) / f"{number:x}{KEY[1:]}.npy"
    cached(path, lambda work: work.write_bytes((CONTENT * (size // len(CONTENT) + 1))[:size]))
    if not held:
        entries._held.pop(path).close()
    return path


def damage(path: Path, how: str) -> None:
    stat = path.stat()
    content = bytearray(path.read_bytes())
    if how == "garbled":
        content[len(content) // 2] ^= 1
    path.write_bytes(
        {"truncated": content[:-1], "empty": b"", "garbled": content, "foreign": b"x" * len(content), "unsealed": content}[how]
    )
    if how == "unsealed":
        entries._seal(path).unlink()
    elif how == "garbled":
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # nothing but the content tells


@pytest.mark.parametrize("how", ["truncated", "empty", "garbled", "foreign", "unsealed"])
def test_what_is_damaged_is_made_again_with_one_line(how, capsys):
    path = put()
    made = []
    cached(path, lambda work: made.append(work))
    assert not made and capsys.readouterr().err == ""
    damage(path, how)
    assert not whole(path)
    put()
    said = capsys.readouterr().err
    assert path.read_bytes() == CONTENT and whole(path)
    assert len(said.splitlines()) == 1 and f"{path} is damaged" in said


@pytest.mark.parametrize("seal", [b"", b"[" * 100_000, b"{}", b"[1]", b'{"": []}', b'{"": 3}', b"\xff\xfe", b"null"])
def test_no_seal_can_be_wrong_in_a_way_that_hurts(seal):
    path = put()
    entries._seal(path).write_bytes(seal)
    assert not whole(path)


def test_a_folder_is_whole_only_with_all_its_files(capsys):
    path = cache_dir("decoders") / "model-0123456789abcdef"

    def make(work: Path) -> None:
        for name in ("a", "b"):
            (work / name).write_bytes(CONTENT)

    cached(path, make, folder=True)
    for harm in (lambda: (path / "a").unlink(), lambda: (path / "more").touch(), lambda: (path / "b").write_bytes(CONTENT[1:])):
        harm()
        assert not whole(path)
        cached(path, make, folder=True)
        assert sorted(file.name for file in path.iterdir()) == ["a", "b"] and whole(path)
    assert capsys.readouterr().err.count("is made again") == 3


def test_a_large_entry_is_hashed_once_for_each_time_of_change(monkeypatch):
    path, hashed = put(), []
    monkeypatch.setattr(entries, "SMALL", 0)
    real = entries.file_sha256
    monkeypatch.setattr(entries, "file_sha256", lambda file: hashed.append(file) or real(file))
    assert whole(path) and whole(path) and not hashed  # the process that wrote it has hashed it
    os.utime(path, ns=(1, 1))
    assert whole(path) and hashed == [path]
    assert whole(path) and hashed == [path]


def test_what_is_drawn_later_does_not_tell_whether_an_entry_was_there():
    """A model that is converted draws its first weights, and a head that is made next must not be another one for it. Oracle: the entry."""

    def drawn(key: str) -> Tensor:
        torch.manual_seed(0)
        cached(cache_dir("decoders") / f"{key}.npy", lambda work: work.write_bytes(bytes(torch.randint(9, (5,)).tolist())))
        return torch.rand(3)

    made, found = drawn(KEY), drawn(KEY)
    assert torch.equal(made, found)


def test_a_writer_that_fails_leaves_nothing():
    path = cache_dir("features") / f"{KEY}.npy"
    with pytest.raises(RuntimeError), making(path) as work:
        work.write_bytes(b"half")
        raise RuntimeError
    assert [file.name for file in path.parent.iterdir()] == []


def _race(folder: str, number: int, pipe) -> None:
    os.environ["CILBENCH_CACHE"] = folder

    def make(work: Path) -> None:
        pipe.send(number)
        time.sleep(0.2)
        work.write_bytes(CONTENT)

    path = cache_dir("images") / f"{KEY}.npy"
    pipe.send(cached(path, make).read_bytes() == CONTENT)


def test_of_many_processes_one_makes_it_and_all_read_it(tmp_path):
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    started = [context.Process(target=_race, args=(str(tmp_path / "cache"), number, theirs)) for number in range(4)]
    for process in started:
        process.start()
    for process in started:
        process.join(30)
    said = [ours.recv() for _ in range(5)]
    assert [process.exitcode for process in started] == [0] * 4
    assert said.count(True) == 4 and False not in said[1:]  # the first thing said is the number of the maker


def test_the_cache_keeps_to_its_limit_and_what_is_in_use_stays(monkeypatch, capsys):
    monkeypatch.setenv("CILBENCH_CACHE_GIB", str(25_000 / 2**30))
    old = [put(number, size=10_000) for number in range(2)]
    for age, path in enumerate(old):
        os.utime(entries._seal(path), (1000 - age, 1000 - age))
    assert use(old[1])  # the older one, by its time, is used now
    new = put(2, size=10_000)
    assert not old[0].exists() and old[1].exists() and new.exists()
    assert "cache: removed 1 entries" in capsys.readouterr().err
    monkeypatch.setenv("CILBENCH_CACHE_GIB", "many")
    with pytest.raises(InputError, match="CILBENCH_CACHE_GIB=many is no size"):
        put(3)


def test_the_command_lists_and_clears(tmp_path, capsys):
    used, _, image = put(0, held=True), put(1), put(2, "images")
    mine = tmp_path / "cache" / "images" / "holiday.npy"
    mine.write_bytes(b"a file of the user's")
    (tmp_path / "cache" / "images" / f".{KEY}.npy.abcd").mkdir()
    assert main(["cache"]) == 0
    said = capsys.readouterr().out
    assert "features     2 entries    20.5 kB" in said and "images       2 entries    10.2 kB" in said and "decoders     0" in said
    assert main(["cache", "clear", "image"]) == 2 and "did you mean 'images'" in capsys.readouterr().err
    assert main(["cache", "clear", "images"]) == 1 and "it may still be written" in capsys.readouterr().out
    assert not image.exists() and mine.exists() and used.exists()
    assert main(["cache", "clear", "features"]) == 1
    assert f"kept {used}: a running process uses it" in capsys.readouterr().out
    entries._held.pop(used).close()
    assert main(["cache", "clear", "features"]) == 0 and list(used.parent.iterdir()) == []
    assert main(["cache", "empty"]) == 2 and main(["cache", "clear", "images", "features"]) == 2


def test_a_full_disk_is_one_sentence():
    with (
        pytest.raises(InputError, match="does not take what is written .No space left.*cilbench cache clear"),
        making(cache_dir("features") / f"{KEY}.npy"),
    ):
        raise OSError(28, "No space left on device")


def test_a_cache_that_cannot_be_made_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("CILBENCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match="CILBENCH_CACHE"):
        cache_dir("features")


def test_seals_say_what_sha256sum_says():
    path = put()
    ((name, (size, *_, sha256)),) = json.loads(entries._seal(path).read_text()).items()
    # The oracle: `python -c "print(bytes(range(256)) * 40)" | sha256sum`, by another implementation than hashlib's file_digest.
    assert (name, size) == ("", 10_240) and sha256 == os.popen(f"sha256sum {path}").read().split()[0]
