"""A plan reads configurations and tokenizers alone. Oracle: weights that could not be read, and a watch over the files that are opened."""

import sys

import pytest

from bench.run import main

WEIGHTS = (".safetensors", ".bin", ".pth", ".pt")
_seen: list[str] | None = None


def _watch(event: str, given: tuple) -> None:
    if event == "open" and _seen is not None and str(given[0]).endswith(WEIGHTS):
        _seen.append(str(given[0]))


sys.addaudithook(_watch)  # it cannot be taken away again, and looks on only where a test asks


@pytest.fixture
def opened():
    """-> files of weights that Python opens in a test; libraries that open them themselves would fail on what is in them"""
    global _seen
    _seen = []
    yield _seen
    _seen = None


def plan(*options, tmp_path) -> int:
    return main(["stream=digits", "stream.limit=4", "dry_run=true", "progress=false", f"results={tmp_path / 'results'}", *options])


@pytest.fixture
def no_hashing(monkeypatch):
    monkeypatch.setattr("methods.networks.weights.file_sha256", lambda file: pytest.fail(f"{file} is hashed"))
    monkeypatch.setattr("methods.gmm.models.file_sha256", lambda file: pytest.fail(f"{file} is hashed"))


def test_the_packaged_models(tmp_path, capsys, monkeypatch, opened, no_hashing):
    """The decoder is neither hashed nor converted; its configuration and tokenizer stand at the head of its one file."""
    monkeypatch.setenv("CILBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("methods.gmm.models._convert", lambda *_: pytest.fail("a plan converts nothing"))
    assert plan("method=gmm", tmp_path=tmp_path) == 0
    said = capsys.readouterr().out
    assert "138,623,872 parameters, of which 737,856 train" in said and "(one process x 1): weights 0.50" in said
    assert ", names 0.08" in said and "features 0.00 GiB as tables of 1 x 1280 numbers an image" in said
    assert sum(file.stat().st_size for file in (tmp_path / "cache").rglob("*")) < 2**23 and opened == []
