"""A sweep: planned whole, skips what has a record, survives a crash and stops on Ctrl-C."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from bench.config import config_hash, resolve
from data.errors import InputError
from launch import sweep
from tests.bench.made import write_record


def planned(*arguments: str) -> list[sweep.Run]:
    return sweep.plan(*sweep.parse(list(arguments)))


def test_the_grid_is_planned_with_estimates_and_without_what_is_done(tmp_path):
    config = resolve(["method=ncm", "stream=digits", "seed=1"])
    from omegaconf import OmegaConf

    plain = OmegaConf.to_container(config)
    write_record(tmp_path / "s" / "ncm", method="ncm", seed=1, config=plain, config_hash=config_hash(config))
    (path,) = tmp_path.rglob("*.json")
    path.rename(tmp_path / "s" / "ncm" / "one.json")
    runs = planned("methods=[ncm,finetune]", "streams=[digits]", "seeds=[0,1]", f"results={tmp_path}")
    states = [("ncm", 0, False), ("ncm", 1, True), ("finetune", 0, False), ("finetune", 1, False)]
    assert [(run.method, run.seed, run.done) for run in runs] == states
    assert [run.seconds for run in runs] == [3.0, 3.0, None, None]


@pytest.mark.parametrize("wrong", ["methods=[icral]", "seeds=[a]", "jobs=0", "method=ncm", "methods=[]", "oops", "gpus=1,2"])
def test_wrong_input_stops_before_anything_runs(wrong):
    with pytest.raises(InputError):
        planned("methods=[ncm]", wrong)


def made_driver(tmp_path: Path, text: str) -> Path:
    driver = tmp_path / "driver.py"
    driver.write_text(text)
    return driver


def test_a_crash_does_not_stop_the_rest(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "DRIVER", made_driver(tmp_path, "import sys; print('here'); sys.exit('seed=1' in sys.argv)"))
    runs = planned("methods=[ncm]", "seeds=[0,1,2]", f"results={tmp_path}")
    failed = sweep.execute(runs, 2, None, Console(quiet=True))
    assert [run.seed for run in failed] == [1]
    assert all(sweep.log_path(run).read_text() == "here\n" for run in runs)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "kill"])
def test_ctrl_c_ends_what_runs(tmp_path, number):
    driver = made_driver(tmp_path, f"import time; open(r'{tmp_path}/up', 'w').close(); time.sleep(60); open(r'{tmp_path}/over', 'w')")
    code = f"import signal, sys, pathlib; from launch import sweep; sweep.DRIVER = pathlib.Path(r'{driver}'); "
    code += "signal.signal(signal.SIGINT, signal.default_int_handler); "  # a shell's background jobs start with it ignored
    code += "sys.exit(sweep.main(sys.argv[1:]))"
    arguments = [sys.executable, "-c", code, "methods=[ncm]", "seeds=[0,1]", f"results={tmp_path}"]
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    before = time.monotonic()
    while not (tmp_path / "up").exists() and time.monotonic() - before < 60:
        time.sleep(0.1)
    process.send_signal(number)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130 and "goes on with what has no record" in error and "Traceback" not in error
    assert not (tmp_path / "over").exists()


def test_submitit_runs_the_jobs(tmp_path, monkeypatch):
    pytest.importorskip("submitit", reason="submitit is not installed: pip install -e .[slurm]")
    monkeypatch.setattr(sweep, "DRIVER", made_driver(tmp_path, "import sys; print(sys.argv[3]); sys.exit('seed=1' in sys.argv)"))
    jobs = sweep.submit(planned("methods=[ncm]", "seeds=[0,1]", f"results={tmp_path}"), "gpu", Console(quiet=True), cluster="local")
    assert jobs[0].result().strip() == "seed=0"
    assert jobs[1].exception() is not None  # and the other ended well


def test_slurm_is_asked_for_where_it_is(tmp_path, monkeypatch):
    pytest.importorskip("submitit", reason="submitit is not installed: pip install -e .[slurm]")
    monkeypatch.setattr(sweep.shutil, "which", lambda name: None)
    with pytest.raises(InputError, match="no srun"):
        sweep.submit(planned("methods=[ncm]", f"results={tmp_path}"), "gpu", Console(quiet=True))
