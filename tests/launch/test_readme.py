"""The README is right: its commands are understood, its files exist, its options are options, its examples run."""

import re
import shlex
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from bench.config import RunConfig, resolve
from bench.run import main
from data.config import STREAMS
from data.sources import SOURCES
from launch import cli, sweep
from methods.config import CONFIGS, METHODS
from methods.gmm.models import VLMS

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "README.md").read_text()
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines() if line]
EXAMPLES = {name: code for name, code in re.findall(r"```python\n# (\S+)\n(.*?)```", TEXT, re.DOTALL)}


@pytest.fixture
def written(tmp_path, monkeypatch):
    """-> the folder into which a reader has copied the examples, and works in"""
    for name, code in EXAMPLES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for registry in (METHODS, SOURCES, VLMS):
        for name in list(registry):
            monkeypatch.setitem(registry, name, registry[name])
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "my_package"]:
        del sys.modules[name]
    for registry in (METHODS, SOURCES, VLMS):
        for name in {"mine", "shapes"} & set(registry):
            del registry[name]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_understood(command, written, capsys):
    program, *arguments = shlex.split(command, comments=True)
    if program in ("make", "pip"):
        named = re.findall(r"[\w./-]+\.txt", command)
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert all((ROOT / name).exists() for name in named) and (program == "pip" or arguments[0] in targets)
    elif program == "cilbench":
        name, *rest = arguments
        assert name in cli.COMMANDS
        if name == "sweep":
            assert sweep.plan(sweep.read(rest))
        elif name == "run":
            resolve(rest)
        else:  # its parser knows the options: the help is what is left to say
            try:
                cli.main([name, *rest, "--help"])
            except SystemExit as left:
                assert left.code == 0
            assert "usage" in capsys.readouterr().out
    else:
        assert program in ("python", "accelerate", "sbatch")
        script = next(at for at, one in enumerate(arguments) if one.endswith((".py", ".sh")))
        assert (ROOT / arguments[script]).exists()
        assert all((ROOT / one).exists() for one in arguments if one.endswith(".yaml"))
        resolve([one for one in arguments[script + 1 :] if not one.startswith("--")])


def test_the_sweep_in_a_file_is_understood(tmp_path, monkeypatch):
    (text,) = re.findall(r"```yaml\n(results:.*?)```", TEXT, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "paper.yaml").write_text(text)
    assert len(sweep.plan(sweep.read(["paper.yaml"]))) == 2 * 3 + 2 * 3


def test_every_file_it_names_exists():
    names = set(re.findall(r"`((?:bench|methods|data|launch|tests|results)/[\w./-]*\w\.\w+)`", TEXT)) | set(
        re.findall(r"\]\((\S+?)\)", TEXT)
    )
    names |= {f"tests/promises/{name}" for name in re.findall(r"`((?:\.\./[\w/]*)?test_\w+\.py)`", TEXT)}
    made = {name for name in names if name == "results/leaderboard.html"}
    assert len(names) > 15
    assert [name for name in sorted(names - made) if not (ROOT / name).exists()] == []


def test_every_option_it_names_is_one():
    known = {one.name for one in fields(RunConfig)} | {"checkpoint.minutes", "experiment"}
    for group, options in (("method", CONFIGS.values()), ("stream", STREAMS.values())):
        known |= {f"{group}.{one.name}" for config in options for one in fields(config)}
    said = {word.partition("=")[0] for text in re.findall(r"`([^`\n]+)`", TEXT) for word in text.split() if re.match(r"[a-z_.]+=", word)}
    assert len(said) > 20 and said - known - {"jobs", "gpus", "slurm"} == set()


def test_the_method_and_the_stream_run_together(written, capsys):
    """Both examples as they stand: the user's method on the user's stream."""
    options = ["plugins=[my_package.mine,my_package.shapes,my_package.models]", "method=mine", "method.smoothing=0.2", "stream=shapes"]
    quick = ["method.epochs=1", "stream.limit=8", "progress=false", f"results={written / 'results'}"]
    assert main([*options, *quick]) == 0, capsys.readouterr().err
    assert "last accuracy" in capsys.readouterr().out and "mine" in VLMS
