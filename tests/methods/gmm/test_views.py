"""Random resized crops with live features: others each epoch, the same on any number of processes and after a kill.

Oracles: the encoder called on the crops by hand; the run in one process that was never killed.
"""

import os
import signal
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
import torch

from bench import record as records
from bench.run import main
from data.errors import InputError
from data.images.augment import ResizedCrop
from data.stream import Rows
from methods.config import Training
from methods.learning.batches import GlobalBatches
from methods.learning.training import Session, fit, session
from methods.networks.features import choose, with_features
from tests.methods.networks.encoding import plain_encoder
from tests.promises.killing import attempt

ROOT = Path(__file__).resolve().parents[3]
RUN = ["method=gmm", "method.vlm=tiny", "method.crop=0.3", "method.batch_size=2", "method.epochs=2", "method.max_new_tokens=12"]
RUN += ["stream=digits", "stream.limit=5", "stream.tasks=2", "progress=false", "eval_batch_size=4"]
CROP = ResizedCrop(8, 0.3, flip=False)


@pytest.fixture
def rows(tmp_path, monkeypatch) -> Rows:
    monkeypatch.setenv("CILBENCH_CACHE", str(tmp_path / "cache"))
    images = torch.randint(0, 256, (20, 3, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return Rows(images, torch.arange(20), torch.arange(20) % 5)


def test_each_epoch_sees_other_views_of_each_row(rows, accelerator):
    (fed,) = with_features(accelerator, plain_encoder(), [rows], "auto", views=True)
    model, seen = torch.nn.Linear(64, 5), defaultdict(list)
    opened = Session(seed=3)

    def loss(net, batch):
        pixels = CROP(rows.store[batch.index], opened.micro.draws(CROP)) / 255
        assert pixels.shape[-1] == 8 and torch.allclose(batch.inputs, plain_encoder().module.maps(pixels), rtol=1e-5, atol=1e-4)
        for row, features in zip(batch.index.tolist(), batch.inputs, strict=True):
            seen[row].append(features)
        return net(batch.inputs).pow(2).mean()

    with session(opened):
        fit(accelerator, model, fed, loss, Training(epochs=2, batch_size=8, lr=1e-3), CROP)
    assert len(seen) == 20 and all(len(views) == 2 and not torch.allclose(*views, atol=1e-2) for views in seen.values())


@pytest.mark.parametrize("world", [2, 3])
def test_draws_of_the_ranks_are_those_of_one(world):
    def draws(rank: int, of: int) -> dict[tuple[int, int], torch.Tensor]:
        batches = GlobalBatches(20, 8, 2, (0, 1, 0), 0, 6, rank, of)
        every = zip(batches, batches.micro(), strict=True)
        return {(micro.step, row): draw for where, micro in every for row, draw in zip(where.tolist(), micro.draws(CROP), strict=True)}

    alone, together = draws(0, 1), [draws(rank, world) for rank in range(world)]
    assert set().union(*together) == set(alone)
    assert all(torch.equal(draw, alone[key]) for found in together for key, draw in found.items())


def test_views_are_of_no_table(rows, tmp_path, capsys):
    few = rows.at(torch.arange(5))
    first, second = choose(plain_encoder(), [rows, few], "auto", views=True)
    assert (first.way, second.way) == ("live", "cache") and "method.crop" in first.why
    assert [one.way for one in choose(plain_encoder(), [rows, few], "live", views=True)] == ["live", "live"]
    with pytest.raises(InputError, match="set features=auto or method.crop=null"):
        choose(plain_encoder(), [rows, few], "cache", views=True)
    assert main([*RUN, "dry_run=true", f"results={tmp_path}"]) == 0
    assert "with each batch, as method.crop draws new views each epoch" in capsys.readouterr().out
    assert main([*RUN, "dry_run=true", "features=cache", f"results={tmp_path}"]) == 2


@pytest.mark.slow
def test_a_run_is_the_same_on_two_processes_and_after_a_kill(tmp_path):
    code, calls = attempt([*RUN, f"results={tmp_path / 'whole'}"])
    assert code == 0 and calls["training"] > 30
    kill = ("training", 25, True)  # in the second task, whose tenth step is kept
    assert attempt([*RUN, f"results={tmp_path / 'cut'}", "checkpoint.minutes=0"], kill)[0] == -signal.SIGKILL
    assert attempt([*RUN, f"results={tmp_path / 'cut'}"])[0] == 0
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(ROOT / "launch" / "cpu2.yaml")]
    command = [*launch, str(ROOT / "bench" / "run.py"), *RUN, f"results={tmp_path / 'two'}"]
    subprocess.run(command, check=True, capture_output=True, timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1"})
    whole, cut, two = (records.read(next(iter(records.find(tmp_path / name)))) for name in ("whole", "cut", "two"))
    assert records.stable(cut) == records.stable(whole) and cut["environment"]["resumed"] == 1
    assert two["counts"] == whole["counts"] and two["environment"]["world_size"] == 2
    assert [one["environment"]["features"]["train"] for one in (whole, cut, two)] == ["live"] * 3
