"""Trackers are told what the record says, and cannot cost a run anything. The oracle is the record."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker

from bench import record as records
from bench.engine import make_accelerator, run
from bench.metrics import rates
from data.errors import InputError
from tests.bench import wandb_file
from tests.promises.faulty import ROOT, at_call, go, terminate

COSTS = ("memory_bytes", "trainable", "train_s", "evaluate_s", "total_s")


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """-> the folder in which wandb writes, without a network"""
    for name, value in {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(name, value)
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):  # staged artifacts too
        monkeypatch.setenv(name, str(tmp_path / "staged"))
    return tmp_path


@pytest.mark.slow
def test_what_wandb_wrote_offline_is_what_the_record_says(quick, offline):
    config = quick("finetune", "tracker=wandb")
    record, path = run(config, make_accelerator(config))
    found, metrics = wandb_file.read(offline), record["metrics"]
    assert {name: found["summary"][name] for name in metrics} == metrics
    assert [found["summary"][name] for name in COSTS[:2]] == [record["memory"]["bytes"], record["parameters"]["trainable"]]
    assert found["run"].run_group == f"{record['stream']['key']}/{record['method']}"
    assert (found["config"]["seed"], found["config"]["config_hash"]) == (0, record["config_hash"])

    after = [step for step in found["history"] if "accuracy" in step]
    assert [step["accuracy"] for step in after] == metrics["per_task_accuracy"]
    matrix = rates(record["counts"]["correct"], record["counts"]["total"])
    for number, step in enumerate(after):
        assert [step[f"accuracy/task {task + 1}"] for task in range(number + 1)] == list(matrix[number, : number + 1])
    steps = [step for step in found["history"] if "train/loss" in step]
    assert {step["train/task"] for step in steps} == set(range(len(matrix))) and all(step["train/rows_per_s"] > 0 for step in steps)

    (table,) = offline.rglob("media/table/*.table.json")
    cells = json.loads(table.read_text())["data"]
    assert [row[1 : number + 2] for number, row in enumerate(cells)] == [list(row[: number + 1]) for number, row in enumerate(matrix)]
    assert len(list(offline.rglob("media/images/*.png"))) == 1
    (artifact,) = (one for one in found["artifacts"] if one.type == "record")
    files = {entry.path: Path(entry.local_path) for entry in artifact.manifest.contents}
    assert files[path.name].read_bytes() == path.read_bytes()
    assert yaml.safe_load(files["config.yaml"].read_text()) == record["config"]


@pytest.mark.slow
def test_what_tensorboard_wrote_is_what_the_record_says(quick, tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = quick("ncm", "tracker=tensorboard")
    record, path = run(config, make_accelerator(config))
    folder = tmp_path / "results" / "tensorboard" / record["stream"]["key"] / "ncm" / path.stem
    found = reader.EventAccumulator(str(folder))
    found.Reload()
    near = {name: pytest.approx(value, rel=1e-6) for name, value in record["metrics"].items() if isinstance(value, float)}  # float32 there
    assert {name: found.Scalars(f"summary/{name}")[0].value for name in near} == near
    assert [event.value for event in found.Scalars("accuracy")] == pytest.approx(record["metrics"]["per_task_accuracy"], rel=1e-6)
    assert found.Images("accuracy matrix")[0].encoded_image_string.startswith(b"\x89PNG")


@pytest.mark.slow
def test_tensorboard_goes_on_where_a_stopped_run_does(tmp_path):
    """Oracle: the curves of a run that was not stopped, step for step."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

    def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
        found = reader.EventAccumulator(str(next(folder.glob("tensorboard/*/*/*"))))
        found.Reload()
        return {name: [(event.step, event.value) for event in found.Scalars(name)] for name in ("train/loss", "accuracy")}

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert go(whole, "tracker=tensorboard") == 0
    with at_call("training", 20, terminate):
        assert go(cut, "tracker=tensorboard") == 75
    assert go(cut, "tracker=tensorboard") == 0
    assert curves(cut) == curves(whole) and len(curves(whole)["accuracy"]) == 3


@pytest.mark.slow
def test_wandb_knows_a_stopped_run_that_goes_on_as_the_same(offline):
    """Each attempt in a process of its own, as a scheduler starts it again. Oracle: the id of the run that wandb says it began.

    Not the files alone: of a process that ends at once, its service may leave none.
    """
    folder = offline / "results"
    start = f"from tests.bench.test_tracking import *; run = lambda *more: go(Path({str(folder)!r}), 'tracker=wandb', *more); tell()\n"
    stopped = f"with at_call('training', 20, lambda: (written(Path({str(offline)!r})), terminate())): code = run()"
    codes, ids = [], []
    for rest in (stopped, "code = run()", "code = run('seed=1')"):
        done = subprocess.run(
            [sys.executable, "-c", f"{start}{rest}\nsys.exit(code)"], cwd=ROOT, capture_output=True, check=False, text=True
        )
        codes.append(done.returncode)
        ids.append(re.findall("began (\\S+)", done.stdout))
    first, second, other = ids  # a tracker that does not start costs no run: of the two attempts one may lack
    assert codes == [75, 0, 0] and len({*first, *second}) == len(other) == 1 and not {*first, *second} & {*other}
    assert {path.stem for path in offline.rglob("run-*.wandb")} <= {f"run-{one}" for one in sum(ids, [])}


def tell() -> None:
    """Print the id of each run that wandb begins."""
    import wandb

    begin = wandb.init

    def told(*given, **more):
        found = begin(*given, **more)
        print("began", found.id, flush=True)
        return found

    wandb.init = told


def written(folder: Path) -> None:
    """Wait until wandb's service, which writes when it comes to it, has begun the file of a run."""
    until = time.monotonic() + 600
    while not list(folder.rglob("run-*.wandb")):
        assert time.monotonic() < until, f"wandb has written nothing to {folder}"
        time.sleep(0.1)


class Failing(GeneralTracker):
    """A tracker that is there at first and then is not."""

    name, requires_logging_directory, main_process_only, tracker = "failing", False, True, None

    def __init__(self, last: int):
        super().__init__()
        self.left = last

    def start(self):
        self.left -= 1
        if self.left < 0:
            raise ConnectionError("the network is gone")

    def store_init_configuration(self, values):
        self.start()

    def log(self, values, step=None, **kwargs):
        self.start()

    def log_images(self, values, step=None, **kwargs):
        self.start()

    def finish(self):
        self.start()


@pytest.mark.parametrize("last", [0, 1, 4, 8, 9], ids=["at the start", "at the configuration", "in a task", "at the end", "on closing"])
def test_a_tracker_that_fails_costs_nothing(quick, accelerator, last):
    undisturbed, _ = run(quick("ncm"), accelerator)
    failing = Accelerator(cpu=True, log_with=[Failing(last)])
    with pytest.warns(UserWarning, match="the run goes on without it"):
        record, path = run(quick("ncm"), failing)
    failing.end_training()  # as bench/run.py does last
    assert records.stable(record) == records.stable(undisturbed) and records.read(path) == record


def test_an_unknown_tracker_and_one_that_is_not_installed_are_one_sentence(quick, monkeypatch):
    with pytest.raises(InputError, match="did you mean 'wandb'"):
        make_accelerator(quick("ncm", "tracker=wandbb"))
    monkeypatch.setattr("bench.tracking.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install tensorboard"):
        make_accelerator(quick("ncm", "tracker=tensorboard"))
