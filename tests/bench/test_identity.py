"""A name changes with whatever can change a number, and with nothing else. Oracle: the predictions, bit for bit, and the sources."""

import importlib
import sys
from dataclasses import fields

import pandas as pd
import pytest
import torch

from bench import code as codes
from bench import record as records
from bench.board.leaderboard import main as leaderboard
from bench.config import resolve
from bench.engine import make_accelerator, run
from bench.identity import Identity, config_hash, guard, hashed, identity, made_by, of_record
from data.code import read
from data.config import StreamConfig
from data.errors import InputError
from data.options import declared
from data.source import load
from data.stream import TaskStream
from launch.cli import main as cilbench
from methods.config import CONFIGS, METHODS
from tests.bench.made import make_record

HELPER = (
    '"""Said."""\n\n\ndef half(x):\n    """Doc."""\n    if x < 0:\n        raise ValueError(f"{x} is bad")\n    return x / 2  # exactly\n'
)


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """-> a function: source of a helper that the method's file imports -> the digest of the method's code"""
    name = f"plugged_{tmp_path.name}"  # of its own: what was imported of another stays known to the interpreter
    package = tmp_path / name
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "mine.py").write_text(f"from {name}.helper import half\n\n\nclass Mine:\n    Config = half\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(METHODS, "mine", f"{name}.mine:Mine")

    def digest(helper: str) -> str:
        (package / "helper.py").write_text(helper)
        importlib.invalidate_caches()
        read.cache_clear()
        return codes.code("mine", "digits")["digest"]

    yield digest
    read.cache_clear()
    sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("# exactly", "# more or less", True),
        ('"""Doc."""', '"""Another word."""', True),
        ('"""Said."""\n', "", True),
        ("return x / 2", "return (x\n            / 2)", True),
        ("is bad", "is negative, which none may be", True),
        ("x / 2", "x / 3", False),
        ("x < 0", "x <= 0", False),
    ],
)
def test_words_do_not_change_the_code_and_numbers_do(plugin, old, new, same):
    assert old in HELPER
    assert (plugin(HELPER) == plugin(HELPER.replace(old, new))) is same


def test_the_code_of_a_method_is_what_it_can_reach_and_no_other_method():
    found = {method: set(codes.code(method, "digits")["files"]) for method in ("finetune", "icarl", "gmm")}
    assert {"methods.finetune", "methods.learning.training", "data.stream", "bench.evaluation", "data.sources.digits"} <= found["finetune"]
    assert "methods.icarl" not in found["finetune"] and "methods.memory.exemplars" in found["icarl"]
    assert "methods.gmm.tiny" in found["gmm"]  # named in a registry as module:function, imported when it is chosen
    assert not any(name.startswith(("bench.board", "bench.tracking", "methods.options")) for names in found.values() for name in names)
    assert "torch" in codes.code("ncm", "digits")["versions"]


def test_a_new_torch_is_other_code(monkeypatch):
    before = codes.code("ncm", "digits")
    real = codes.version
    monkeypatch.setattr(codes, "version", lambda name: "99.0" if name == "torch" else real(name))
    after = codes.code("ncm", "digits")
    assert after["digest"] != before["digest"] and after["files"] == before["files"]
    assert {"torch 99.0"} < set(codes.difference(before, after)) and "torch 99.0" in codes.mark(after)


def other(kind: type, name: str, value):
    """-> another value that the option may have, None if that is not a matter of drawing one"""
    if isinstance(value, bool):
        return not value
    wide = declared(kind, name).get("range")
    if wide is not None and not isinstance(value, list) and name not in ("increment",):
        step = (value or wide.low) + (1 if isinstance(value, int) or value is None else 0.05)
        return step if wide.holds(step) else None
    return None


def changes() -> list[str]:
    """-> every option of the run, a stream and a method, each with another value"""
    config, found = resolve(["method=finetune"]), ["project=other", "results=elsewhere", "tracker=tensorboard"]
    found += ["checkpoint.minutes=0", "timeout_minutes=7", "eval_batch_size=3", "pictures=true", "seed=1", "precision=bf16"]
    for prefix, kind, values in (("method.", CONFIGS["finetune"], config.method), ("stream.", StreamConfig, config.stream)):
        for entry in fields(kind):
            value = other(kind, entry.name, values[entry.name]) if entry.name in values else None
            found += [f"{prefix}{entry.name}={str(value).lower()}"] if value is not None else []
    return found


@pytest.mark.slow
def test_two_configurations_that_differ_in_one_thing_differ_in_name_or_not_in_numbers(tmp_path, accelerator, monkeypatch):
    """Every option is changed by itself. Where the name stays, the run is made, and its predictions are those of the base."""
    monkeypatch.chdir(tmp_path)
    base = ["method=finetune", "method.epochs=1", "method.lr=0.01", "stream.limit=2", "stream.tasks=2", "progress=false"]

    def named(*more: str):
        config = resolve([*base, *more])
        stream = TaskStream(load(config.stream), config.stream)
        return config, identity(config, stream, "finetune", {})

    def predictions(config) -> pd.DataFrame:
        _, path = run(config, accelerator)
        return pd.read_parquet(path.with_name(f"{path.stem}-predictions.parquet"))

    config, name = named()
    whole, same, differ = predictions(config), [], []
    for change in changes():
        try:
            changed, new = named(change)
        except InputError:
            continue  # refused, which is as good
        if new != name:
            differ.append(change)
            continue
        same.append(change)
        changed.results, changed.tracker = str(tmp_path / "again"), "none"
        assert predictions(changed).equals(whole), change
    assert len(differ) > 15 and {"checkpoint.minutes=0", "timeout_minutes=7", "stream.cache_gib=32.05"} <= set(same)


def test_of_a_list_the_place_does_not_count(tmp_path):
    """What it lists is in the stream's key and sha256."""
    paths = [tmp_path / "a.txt", tmp_path / "b.txt"]
    for path in paths:
        path.write_text("0\n1\n")
    fixed = ["method=ncm", "stream.shots=1"]
    one, two = (config_hash(resolve([*fixed, f"stream.shot_list={path}"])) for path in paths)
    assert one == two


def test_another_library_that_rounds_weights_is_another_run(monkeypatch):
    """bitsandbytes counts where it acts, and nowhere else."""
    rounded, plain = resolve(["method=gmm", "method.quantize=8", "method.dtype=bfloat16"]), resolve(["method=gmm"])
    found = []
    for release in ("0.48.0", "0.49.0"):
        monkeypatch.setattr("bench.identity.version", lambda library, release=release: release)
        found.append((config_hash(rounded), config_hash(plain)))
    assert found[0][0] != found[1][0] and found[0][1] == found[1][1]


def test_convolutions_in_float32_are_float32(accelerator):
    """torch lets a card round what they take to ten bits; a CPU never does, and both have one name."""
    torch.backends.cudnn.allow_tf32 = True
    make_accelerator(resolve(["method=ncm"]))
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32


def test_a_record_and_its_run_have_one_identity(one_process):
    record, path = one_process("ncm")
    found = of_record(record)
    assert path == found.path(str(path.parents[2])) and record["code"] == made_by(resolve(["method=ncm", "stream=digits"]))
    assert found.code == record["code"]["digest"] and record["schema"] == 2
    assert hashed(record["config"])["precision"] is None and record["config"]["precision"] == "no"


def test_a_record_of_another_thing_is_not_overwritten(tmp_path):
    record = make_record()
    this = of_record(record)
    guard(tmp_path, this, record)
    guard(tmp_path, this, None)
    for field, words in (("sha256", "another data"), ("code", "another code"), ("models", "another published models")):
        with pytest.raises(InputError, match=words):
            guard(tmp_path, Identity(**{**this._asdict(), field: "other"}), record)
    (tmp_path / "notes.json").write_text("mine")
    with pytest.raises(InputError, match="is no record"):
        records.existing(tmp_path / "notes.json")


@pytest.mark.parametrize("end", ["predictions.parquet", "states/notes.txt", "task1.png"])
def test_what_lies_beside_a_record_to_be_is_not_overwritten(end, tmp_path, accelerator):
    config = resolve(["method=finetune", "method.epochs=1", "stream.limit=2", "stream.tasks=1", "progress=false", f"results={tmp_path}"])
    stream = TaskStream(load(config.stream), config.stream)
    path = identity(config, stream, "finetune", {}).path(config.results)
    mine = path.parent / f"{path.stem}-{end}"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(InputError, match="no record says whose it is"):
        run(config, accelerator)
    assert mine.read_text() == "mine" and not path.exists()
    if mine.parent == path.parent:  # what the sentence advises
        mine.rename(tmp_path / "mine")
        assert run(config, accelerator)[1] == path


@pytest.mark.parametrize("name", ["README.md", "leaderboard.csv", "leaderboard.html", "leaderboard.tex"])
def test_a_leaderboard_overwrites_nothing_but_a_leaderboard(name, made, tmp_path, capsys):
    made()
    (tmp_path / name).write_text("# My project\n")
    assert leaderboard([str(tmp_path)]) == 2
    assert f"{name} was not written by cilbench" in capsys.readouterr().err
    assert (tmp_path / name).read_text() == "# My project\n" and len([one for one in tmp_path.iterdir() if one.is_file()]) == 1
    (tmp_path / name).unlink()
    assert leaderboard([str(tmp_path), "--plots"]) == 0 and leaderboard([str(tmp_path), "--plots"]) == 0


def test_validate_says_which_version_a_record_is_of(made, tmp_path, capsys):
    made()
    old = {**make_record(seed=1), "schema": 1}
    del old["code"], old["contents"]
    records.write(old, tmp_path / "old.json")
    assert cilbench(["validate", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "2 of 2 records are sound" in said and "1 of schema 1: made before code identity" in said and "1 of schema 2" in said


def test_two_versions_of_the_code_are_compared(made, tmp_path, capsys):
    for seed in range(3):
        for number, digit in enumerate("ab"):
            files = {"digest": digit * 64, "files": {"methods.icarl": digit * 12}, "versions": {"torch": "2.11.0"}}
            made(seed=seed, code=files, finished=f"2026-01-0{number + 1}T00:00:00+00:00")
    assert cilbench(["compare", str(tmp_path)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "identical" in said and "A was made by aaaaaaaa (torch 2.11.0), B by bbbbbbbb" in said and "differ in methods.icarl" in said
    assert cilbench(["compare", str(tmp_path), str(tmp_path)]) == 2
    assert "several versions of the code" in capsys.readouterr().err
