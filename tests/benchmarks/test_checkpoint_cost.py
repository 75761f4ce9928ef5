"""What checkpoints every minute cost method=gmm stream=digits: the share of a minute that writing one takes.  make benchmark"""

import time

import numpy as np

from bench import engine
from bench.checkpoint import Checkpoints
from bench.config import resolve


def test_a_checkpoint_a_minute_costs_under_two_percent(tmp_path, monkeypatch, accelerator):
    """One run of one task writes as often as it may (every ten steps); a minute of training then pays for one of these writes."""
    inner, writes = Checkpoints._write, []

    def timed(self, phase, step, method):
        before = time.perf_counter()
        inner(self, phase, step, method)
        writes.append((step, time.perf_counter() - before))

    monkeypatch.setattr(Checkpoints, "_write", timed)
    options = [
        "stream.limit=20",
        "stream.tasks=1",
        "method.batch_size=2",
        "method.epochs=2",
        "progress=false",
        "checkpoint.minutes=0",
        f"results={tmp_path}",
    ]
    before = time.perf_counter()
    record, _ = engine.run(resolve(["method=gmm", "stream=digits", *options]), accelerator)
    within = np.array([seconds for step, seconds in writes if step])
    assert len(within) >= 3
    share = within.mean() / (60 + within.mean())
    print(
        f"\n{len(within)} checkpoints within tasks: {1e3 * within.mean():.0f} ms on average, {1e3 * within.max():.0f} ms at most; "
        f"one a minute takes {share:.2%} of the time (the run: {time.perf_counter() - before:.0f} s, "
        f"of which training {record['time']['train_s']:.0f} s and writes {sum(seconds for _, seconds in writes):.1f} s)"
    )
    assert share < 0.02
