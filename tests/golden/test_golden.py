"""Every method gives today what it gave when its golden record was made. The oracle is tests/golden/METHOD.json.

A change that means to move a number makes the records again, `python -m tests.golden METHOD`, and their diff shows by how much.
"""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from bench import record as records
from bench.board.compare import compare, load
from methods.config import METHODS
from methods.finetune import Finetune
from tests.golden.__main__ import stepped
from tests.promises.steps import TRAINED

HERE = Path(__file__).resolve().parent
SAME = ("method", "scoring", "stream", "seed", "config_hash", "memory", "parameters", "weights")
KEYS = ["after_task", "index", "label", "task"]
# Relative, of single steps. Without vector instructions they were seen to differ by 2e-6, 5e-5 and 1e-6.
LOSSES, GRADIENTS, SCORES = 1e-4, 1e-3, 1e-4

pytestmark = pytest.mark.slow


def golden(name: str) -> Path:
    assert (HERE / f"{name}.json").exists(), f"make the golden record: python -m tests.golden {name}"
    return HERE / f"{name}.json"


def again(name: str) -> str:
    return f"if this was meant: python -m tests.golden {name}"


@pytest.mark.parametrize("name", sorted(set(METHODS) - set(TRAINED)))
def test_a_closed_form_gives_what_it_gave(name, one_process):
    """Other CPUs sum in another order: the same answers, with scores that differ in the last bits"""
    (record, path), before = one_process(name), records.read(golden(name))
    # The quick run of zero_shot names a folder of this machine, whose weights are drawn here: their last bits are the processor's.
    same = [key for key in SAME if name != "zero_shot" or key not in ("config_hash", "weights")]
    assert {key: record[key] for key in same} == {key: before[key] for key in same}, again(name)
    found = compare(load(golden(name), limited=True), load(path, limited=True))
    assert found["difference"].abs().max() == 0, f"{found.to_string()}\n{again(name)}"
    was, now = (pd.read_parquet(one.with_name(f"{one.stem}-predictions.parquet")) for one in (golden(name), path))
    assert was[KEYS].equals(now[KEYS])
    assert (was["score"] - now["score"]).abs().mean() <= 1e-5 * was["score"].abs().mean(), again(name)


def unchanged(name, accelerator):
    was, now = json.loads(golden(name).read_text()), json.loads(json.dumps(stepped(name, accelerator)))
    exact = ("config_hash", "rates", "exemplars", "stored")
    assert {key: now[key] for key in exact} == {key: was[key] for key in exact}, again(name)
    before, after = (pd.DataFrame(one.pop("scored")) for one in (was, now))
    assert before[KEYS].equals(after[KEYS])
    losses = max(abs(b - a) / abs(a) for a, b in zip(was["losses"], now["losses"], strict=True))
    parts, others = (torch.tensor(one["gradients"]) for one in (was, now))  # [steps, parts]
    gradients = ((parts - others).norm(dim=1) / parts.norm(dim=1)).max()
    alike = before["answer"] == after["answer"]  # the score of a sentence jumps when a word changes
    scores = (before["score"] - after["score"])[alike].abs().max() / before["score"].abs().max()
    print(
        f"{name}: losses differ by {losses:.1e}, gradients by {gradients:.1e}, scores by {scores:.1e}; {alike.mean():.0%} of answers agree"
    )
    assert losses < LOSSES and gradients < GRADIENTS and scores < SCORES and alike.mean() > 0.9, again(name)


@pytest.mark.parametrize("name", TRAINED)
def test_a_trained_method_takes_the_steps_that_it_took(name, accelerator):
    unchanged(name, accelerator)


def test_a_loss_that_is_a_thousandth_larger_is_seen(accelerator, monkeypatch):
    loss = Finetune.loss
    monkeypatch.setattr(Finetune, "loss", lambda *given: 1.001 * loss(*given))
    with pytest.raises(AssertionError, match="if this was meant"):
        unchanged("finetune", accelerator)
