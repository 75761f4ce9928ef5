"""Promise 1: one process and two see the same batches, keep the same exemplars, score each test row once, end with equal weights.

The engine itself stops a run whose ranks differ after a task, or that scores a row twice. Closed forms agree to the last bit over a whole
run. Training enlarges last bits, so of what is trained single steps from equal weights are compared: see `steps`.
"""

import json

import pandas as pd
import pytest
import torch

from bench.record import stable
from methods.config import METHODS
from tests.promises.steps import FAULTS, FAULTY, TRAINED, agree, steps

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", sorted(set(METHODS) - set(TRAINED)))
def test_closed_forms_on_one_and_two_processes_are_equal(name, one_process, two_processes):
    record, path = one_process(name)
    other_path = two_processes / path.parent.parent.name / path.parent.name / path.name
    other = json.loads(other_path.read_text())
    assert record["environment"]["world_size"] == 1 and other["environment"]["world_size"] == 2
    one, two = (pd.read_parquet(at.with_name(f"{at.stem}-predictions.parquet")) for at in (path, other_path))
    assert not one.duplicated(["after_task", "index"]).any()
    assert stable(record) == stable(other)
    assert one.equals(two)


@pytest.mark.parametrize("name", TRAINED)
def test_one_and_two_processes_take_the_same_steps(name, accelerator, two_processes):
    other = torch.load(two_processes / f"{name}.pt", weights_only=False)
    assert other["processes"] == 2
    agree(steps(name, accelerator), other)


@pytest.mark.parametrize("fault", FAULTS)
def test_steps_with_a_fault_are_seen(fault, accelerator, two_processes):
    found = torch.load(two_processes / "faults.pt", weights_only=False)
    alone = steps(FAULTY, accelerator, tasks=1)
    agree(alone, found["none"])
    with pytest.raises(AssertionError):
        agree(alone, found[fault])
