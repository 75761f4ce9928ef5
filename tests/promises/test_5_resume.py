"""Promise 5: a killed run ends in the record of one that was never killed. Oracle: that one, bit for bit."""

import math
import random
import signal

import pandas as pd
import pytest

from bench import record as records
from methods.base import method_class
from methods.config import METHODS
from tests.conftest import QUICK
from tests.promises.killing import PLACES, attempt

# Enough steps a task for checkpoints within it: every tenth step may write one.
LONG = {name: ["method.batch_size=2", "method.epochs=3"] if method_class(name).trained else [] for name in METHODS}
LONG["gmm"] = ["method.batch_size=1", "method.vlm=tiny"]  # what is resumed is of the same form in a large one
LONG["slca"] += ["method.align_epochs=6", "method.drawn=4"]
STREAM = ["stream=digits", "stream.limit=5", "stream.tasks=3", "progress=false"]
KILLS = 3  # of each method, at places that all methods together go through several times; CI tries all, `-m "not slow"` one method
SHORT = ("icarl",)


@pytest.mark.parametrize("method", [name if name in SHORT else pytest.param(name, marks=pytest.mark.slow) for name in sorted(METHODS)])
def test_killed_again_and_again(method, tmp_path):
    overrides = [f"method={method}", *QUICK.get(method, []), *LONG.get(method, []), *STREAM]
    code, calls = attempt([*overrides, f"results={tmp_path / 'whole'}", "checkpoint.minutes=0"])
    assert code == 0
    killed, draw = [], random.Random(method)
    places = [place for place in PLACES if place in calls]  # in the order in which a run comes to them
    assert set(places) >= set(PLACES) - {"training", "selection"}
    first = sorted(METHODS).index(method)
    for place in sorted({places[(first + 3 * number) % len(places)] for number in range(KILLS)}, key=places.index):
        # In one of the three tasks; early enough that some are left for the kills to come.
        where = (place, draw.randint(1, math.ceil(calls[place] / 3)), draw.random() < 0.5)
        code, _ = attempt([*overrides, f"results={tmp_path / 'cut'}", "checkpoint.minutes=0"], where)
        assert code in (0, -signal.SIGKILL), where
        killed += [where] * (code == -signal.SIGKILL)
    code, _ = attempt([*overrides, f"results={tmp_path / 'cut'}"])
    assert code == 0 and len(killed) >= KILLS - 1  # so that all methods together survive more than 30
    print(f"{method}: {len(killed)} kills survived: {killed}")
    (whole,), (cut,) = (records.find(tmp_path / name) for name in ("whole", "cut"))
    assert records.stable(records.read(cut)) == records.stable(records.read(whole))
    assert records.read(cut)["environment"]["changed"] == []
    predictions = [pd.read_parquet(path.with_name(f"{path.stem}-predictions.parquet")) for path in (whole, cut)]
    assert predictions[0].equals(predictions[1])
    assert sorted(path.name for path in cut.parent.iterdir()) == sorted([cut.name, f"{cut.stem}-predictions.parquet"])  # nothing is left
