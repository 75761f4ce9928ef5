"""A limited stream decodes only what it uses, and is the same stream; no bar is shown where none is wanted."""

from dataclasses import replace

import pytest
import torch

from data import bars
from data.config import STREAMS
from data.images import decode
from data.opening import UsedStore, opened
from data.source import load
from data.stream import TaskStream
from tests.data import trees


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CILBENCH_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(("few", "share"), [({"limit": 1}, 8 / 20), ({"tasks": 1}, 10 / 20), ({"tasks": 1, "limit": 2}, 6 / 20), ({}, 1.0)])
def test_only_what_is_used_is_decoded(few, share, tmp_path, monkeypatch):
    """Oracle: the calls of the decoder, counted; and the stream with everything decoded."""
    trees.folder(tmp_path / "pets")  # four classes of five images, of which one is a test image
    config = replace(STREAMS["folder"], root=str(tmp_path / "pets"), image_size=8, **few)
    whole, calls, real = TaskStream(load(config), config), [], decode.decode
    monkeypatch.setenv("CILBENCH_CACHE", str(tmp_path / "other"))
    monkeypatch.setattr(decode, "decode", lambda file, size: calls.append(str(file)) or real(file, size))
    stream = opened(config)
    assert len(set(calls)) == share * 20
    assert (stream.key, stream.sha256) == (whole.key, whole.sha256)
    for task in range(len(stream)):
        for mine, theirs in ((stream[task].train, whole[task].train), (stream.seen(task), whole.seen(task))):
            for one, other in zip(mine[torch.arange(len(mine))], theirs[torch.arange(len(theirs))], strict=True):
                assert torch.equal(one, other)
        stream[task].train + stream[task].train.of_class(0)  # rows of one store can be joined
    assert isinstance(stream.train_rows.store, UsedStore) == bool(few)


def test_bars_are_shown_or_hidden(capsys):
    for on in (True, False):
        bars.show(on)
        with bars.bar(total=3, desc="looking") as bar:
            bar.update(3)
        assert ("looking" in capsys.readouterr().err) == on
    bars.show(True)
