"""What a checkpoint each minute costs method=gmm stream=digits: the share of training that writing them takes.  make benchmark"""

import time

import numpy as np

from bench import engine
from bench.config import resolve
from bench.resume.checkpoint import Checkpoints


def test_a_checkpoint_a_minute_costs_under_two_percent(tmp_path, monkeypatch, accelerator):
    """One run of one task, long enough for three of them and the one after the task: some four minutes on one CPU core."""
    inner, writes = Checkpoints._write, []

    def timed(self, phase, step, **what):
        before = time.perf_counter()
        inner(self, phase, step, **what)
        writes.append((step, time.perf_counter() - before))

    monkeypatch.setattr(Checkpoints, "_write", timed)
    options = ["stream.increment=10", "method.epochs=2", "checkpoint.minutes=1", "progress=false", f"results={tmp_path}"]
    record, _ = engine.run(resolve(["method=gmm", "stream=digits", *options]), accelerator)
    within = np.array([seconds for step, seconds in writes if step])
    training, writing = record["time"]["train_s"], sum(seconds for _, seconds in writes)
    print(
        f"\n{len(within)} checkpoints within the task ({1e3 * within.mean():.0f} ms on average, {1e3 * within.max():.0f} ms at most) and "
        f"{len(writes) - len(within)} after it: {writing:.2f} s of {training:.0f} s of training, {writing / training:.2%}"
    )
    assert len(within) >= 3 and 60 * len(within) <= training < 60 * (len(within) + 2)  # one a minute, indeed
    assert writing / training < 0.02
