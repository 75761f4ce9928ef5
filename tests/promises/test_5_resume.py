"""Promise 5: a killed run ends in the record of one that was never killed. Oracle: that one, bit for bit."""

import random
import signal

import pandas as pd
import pytest

from bench import record as records
from methods.config import METHODS
from tests.conftest import QUICK
from tests.promises.killing import attempt

# Enough steps a task for checkpoints within it: every tenth step may write one.
LONG = {name: ["method.batch_size=2", "method.epochs=3"] for name in METHODS} | {"gmm": ["method.batch_size=1"], "ncm": []}
STREAM = ["stream=digits", "stream.limit=5", "stream.tasks=3", "progress=false"]
KILLS = 4  # of each method
SHORT = ("icarl",)  # tried by default; the others with -m slow


@pytest.mark.parametrize("method", [name if name in SHORT else pytest.param(name, marks=pytest.mark.slow) for name in sorted(METHODS)])
def test_killed_again_and_again(method, tmp_path):
    overrides = [f"method={method}", *QUICK.get(method, []), *LONG.get(method, []), *STREAM]
    code, calls = attempt([*overrides, f"results={tmp_path / 'whole'}", "checkpoint.minutes=0"])
    assert code == 0
    killed, draw = 0, random.Random(method)
    places = sorted(calls)
    for place in draw.sample(places, min(KILLS, len(places))):
        where = (place, draw.randint(1, calls[place]), draw.random() < 0.5)
        code, _ = attempt([*overrides, f"results={tmp_path / 'cut'}", "checkpoint.minutes=0"], where)
        assert code in (0, -signal.SIGKILL), where
        killed += code == -signal.SIGKILL
    code, _ = attempt([*overrides, f"results={tmp_path / 'cut'}"])
    assert code == 0 and killed >= 1
    print(f"{method}: {killed} kills survived")
    (whole,), (cut,) = (records.find(tmp_path / name) for name in ("whole", "cut"))
    assert records.stable(records.read(cut)) == records.stable(records.read(whole))
    assert records.read(cut)["environment"]["changed"] == []
    predictions = [pd.read_parquet(path.with_name(f"{path.stem}-predictions.parquet")) for path in (whole, cut)]
    assert predictions[0].equals(predictions[1])
    assert sorted(path.name for path in cut.parent.iterdir()) == sorted([cut.name, f"{cut.stem}-predictions.parquet"])  # nothing is left
