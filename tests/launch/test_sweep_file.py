"""A sweep in a file: what it says is what the command line would, and what is wrong in it is a sentence. Oracle: the options, by hand."""

from pathlib import Path

import pytest

from launch import sweep
from launch.sweeping import grid, runs

ROOT = Path(__file__).resolve().parents[2]


def test_a_file_holds_a_sweep(tmp_path):
    """What a block says goes before what the file says for all, and the command line before both."""
    file = tmp_path / "paper.yaml"
    file.write_text(
        f"results: {tmp_path}\nseeds: [0, 1]\njobs: 2\nruns:\n"
        "  - {methods: [ncm], streams: [digits], method.batch_size: '8,16'}\n"
        "  - {experiments: [cifar100_icarl], seeds: 3, launch: zero3, processes: 8, method.memory: null, stream.checksum: false}\n"
    )
    asked = grid.read([str(file), "jobs=1", "stream.limit=4"])
    assert asked.common == {"jobs": "1"}
    every = [point for block in asked.blocks for point in grid.points(block)]
    base = ["method=ncm", "stream=digits", f"results={tmp_path}", "stream.limit=4"]
    wanted = [[*base, f"method.batch_size={size}", f"seed={seed}"] for size in (8, 16) for seed in (0, 1)]
    assert [point.overrides for point in every[:4]] == wanted
    last = every[4]
    assert {"experiment=cifar100_icarl", "method.memory=null", "stream.checksum=false", "seed=3"} <= set(last.overrides)
    assert (last.launch, last.processes) == (str(ROOT / "launch" / "zero3.yaml"), 8)
    assert [point.processes for point in (block for block in every[:4])] == [1] * 4


def test_a_file_may_name_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "paper.yaml").write_text("methods: [ncm]\nresults: ~/paper\n")
    (run,) = runs.plan(grid.read([str(tmp_path / "paper.yaml")]))
    assert run.folder == tmp_path / "paper"


@pytest.mark.parametrize(
    ("text", "said"),
    [("[1]", "must hold key: value"), ("a: [", "is no YAML"), ("methods: [ncm]\nruns: 3", "list of blocks"),
     ("runs: [{methods: [ncm], jobs: 2}]", "of the whole sweep"), ("methods: [ncm]\nmethod: {lr: 1}", "with dots"),
     ("methods: [ncm]\nstream.limt: 3", "did you mean 'stream.limit'"), ("methods: [ncm]\nmethods: [icarl]", "duplicate key methods"),
     ("runs: [{methods: [ncm], seeds: 1, seeds: 2}]", "duplicate key seeds"), ("methods: ${", "is no YAML"),
     ("a: &a [*a]", "is no YAML"), ("3", "cannot be read")],
)  # fmt: skip
def test_a_wrong_file_is_a_sentence(text, said, tmp_path, capsys):
    (tmp_path / "paper.yaml").write_text(text)
    assert sweep.main([str(tmp_path / "paper.yaml")]) == 2
    assert said in capsys.readouterr().err
    assert sweep.main([str(tmp_path / "none.yaml")]) == 2 and "No such file" in capsys.readouterr().err
